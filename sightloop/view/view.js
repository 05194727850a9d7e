(() => {
  "use strict";
  const EVERY = 3000;
  const place = document.body.dataset.place;
  const live = document.getElementById("live");
  const text = async (address) => {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(String(answer.status));
    return answer.text();
  };

  // Controls: each change asks for the samples again and stands in the address, so that it can be linked.
  const sectionOf = (form) => form.closest("section");
  const asked = (form) => {
    const found = new URLSearchParams();
    for (const field of form.elements) {
      if (!field.name) continue;
      const value = field.type === "range" ? field.dataset.steps.split(" ")[field.value] : field.value;
      const usual = field.tagName === "SELECT" ? field.options[0].value : field.dataset.usual ?? "";
      if (value !== usual && value !== "") found.set(field.name, value);
    }
    if (form.dataset.only) found.set("only", form.dataset.only);
    return found;
  };
  const fill = async (form, start) => {
    const section = sectionOf(form), found = section.querySelector(".found");
    const parameters = asked(form), number = (form.dataset.asked = String(Number(form.dataset.asked || 0) + 1));
    if (start) parameters.set("start", start);
    found.classList.add("waiting");
    try {
      const html = await text(`${form.dataset.address}?${parameters}`);
      if (form.dataset.asked !== number) return;
      if (start) {
        found.querySelector(":scope > .more, .more")?.remove();
        found.insertAdjacentHTML("beforeend", html);
      } else found.innerHTML = html;
    } catch { /* The server is away; the footer says so. */ }
    found.classList.remove("waiting");
    section.querySelector(".all")?.parentElement.toggleAttribute("hidden", !form.dataset.only);
    form.hidden = Boolean(form.dataset.only);
  };
  const link = (form) => {
    const parameters = asked(form).toString();
    history.replaceState(null, "", `#${sectionOf(form).id}${parameters ? `?${parameters}` : ""}`);
  };
  const spell = (slider) => {
    const steps = slider.dataset.steps.split(" ");
    slider.closest("label").querySelector("output").textContent = Number(steps[slider.value]).toLocaleString("en");
  };
  let waiting;
  const change = (form, wait) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { fill(form); link(form); }, wait);
  };
  document.querySelectorAll("form.browse").forEach((form) => {
    form.querySelectorAll("input[type=range]").forEach((slider) => {
      slider.dataset.usual = slider.dataset.steps.split(" ")[slider.value];
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      if (event.target.type === "range") spell(event.target);
      change(form, event.target.tagName === "SELECT" ? 0 : 150);
    });
  });
  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    const section = event.target.closest("section");
    const form = section?.querySelector("form.browse");
    if (!form) return;
    const card = event.target.closest("a.link"), more = event.target.closest("button.more");
    if (more) fill(form, more.dataset.start);
    if (card || event.target.closest("a.all")) {
      event.preventDefault();
      if (card) form.dataset.only = card.dataset.only; else delete form.dataset.only;
      fill(form);
      link(form);
    }
  });
  const arrive = () => {
    const [anchor, parameters] = location.hash.slice(1).split("?");
    const section = anchor && document.getElementById(anchor);
    if (!section || parameters === undefined) return;
    const form = section.querySelector("form.browse");
    if (!form) return;
    const wanted = new URLSearchParams(parameters);
    for (const field of form.elements) {
      if (!wanted.has(field.name)) continue;
      const value = wanted.get(field.name);
      field.value = field.type === "range" ? Math.max(0, field.dataset.steps.split(" ").indexOf(value)) : value;
      if (field.type === "range") spell(field);
    }
    if (wanted.has("only")) form.dataset.only = wanted.get("only");
    fill(form).then(() => section.scrollIntoView());
  };
  arrive();
  addEventListener("hashchange", arrive);

  // What changed on disk is asked for again; what is folded out stays so, and nothing jumps.
  let known = null;
  const replace = async (anchor) => {
    const old = document.getElementById(anchor);
    const html = await text(`/part/${place}/${anchor}`);
    if (anchor === "top") { old.innerHTML = html; return; }
    const open = [...old.querySelectorAll("details")].map((each) => each.open);
    const scrolled = [...old.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
    const box = document.createElement("template");
    box.innerHTML = html;
    const fresh = box.content.firstElementChild;
    fresh.querySelectorAll("details").forEach((each, index) => { each.open = open[index] ?? each.open; });
    old.replaceWith(fresh);
    fresh.querySelectorAll(".scroll").forEach((each, index) => { each.scrollLeft = scrolled[index] ?? 0; });
  };
  const extend = async () => {
    // Sliders learn of new steps; whoever is at the end stays at the end.
    const page = new DOMParser().parseFromString(await text(location.pathname), "text/html");
    document.querySelectorAll("form.browse").forEach((form) => {
      const section = sectionOf(form);
      const other = page.querySelector(`#${section.id} form.browse`);
      const mine = form.querySelector("[type=range]"), theirs = other?.querySelector("[type=range]");
      if (theirs && mine) {
        const at = mine.dataset.steps.split(" ")[mine.value], end = mine.value === mine.max;
        const steps = theirs.dataset.steps.split(" ");
        mine.dataset.steps = theirs.dataset.steps;
        mine.max = theirs.max;
        mine.value = end ? theirs.value : steps.indexOf(at);
        mine.dataset.usual = steps[theirs.value];
        spell(mine);
      } else if (theirs && other) {
        form.prepend(theirs.closest("label"));
        const slider = form.querySelector("[type=range]");
        slider.dataset.usual = slider.dataset.steps.split(" ")[slider.value];
      }
      if (!form.dataset.only && !section.querySelector(".found .more ~ .found-card")) fill(form);
    });
  };
  const look = async () => {
    if (document.hidden) return;
    try {
      const now = JSON.parse(await text(`/state/${place}`));
      if (known) {
        for (const anchor of Object.keys(now)) {
          if (known[anchor] === now[anchor]) continue;
          if (anchor === "samples") await extend(); else await replace(anchor);
        }
      }
      known = now;
      live.textContent = "";
    } catch {
      live.textContent = "It cannot be reached now; is `sightloop view` still running?";
    }
  };
  setInterval(look, EVERY);
  look();

  // Own images, questions and prompts.
  document.querySelectorAll("form.try").forEach((form) => {
    const shown = form.parentElement.querySelector(".tried");
    const file = form.querySelector("[type=file]"), drop = form.querySelector(".drop"), preview = drop.querySelector("img");
    let image = "";
    const take = (chosen) => {
      if (!chosen) return;
      const reader = new FileReader();
      reader.onload = () => {
        image = reader.result.slice(reader.result.indexOf(",") + 1);
        preview.src = reader.result;
        preview.hidden = false;
        drop.querySelector(".drop-text").textContent = chosen.name;
      };
      reader.readAsDataURL(chosen);
    };
    file.addEventListener("change", () => take(file.files[0]));
    for (const kind of ["dragover", "dragleave", "drop"]) {
      drop.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.toggle("over", kind === "dragover");
        if (kind === "drop") take(event.dataTransfer.files[0]);
      });
    }
    const put = (tag, content, kind = "") => {
      const made = document.createElement(tag);
      made.textContent = content;
      made.className = kind;
      return made;
    };
    const ask = async (button) => {
      const value = (name) => form.elements[name]?.value ?? "";
      const body = { task: button.name, image, question: value("question"), prompt: value("prompt"), seed: Number(value("seed")) };
      if (button.name === "draw") delete body.image;
      const wait = put("p", "…", "note");
      shown.prepend(wait);
      wait.textContent = "The models work; the first time they are loaded.";
      form.querySelectorAll("button").forEach((each) => { each.disabled = true; });
      try {
        const answer = await fetch(form.dataset.address, {
          method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
        });
        const said = await answer.json();
        if (said.error) { wait.className = "caution"; wait.textContent = said.error; return; }
        const card = put("article", "", "group");
        const what = { caption: "Caption", ask: body.question, draw: body.prompt }[button.name];
        card.append(put("h4", what));
        if (image && button.name !== "draw") {
          const small = preview.cloneNode();
          small.hidden = false;
          small.classList.toggle("tiny", preview.naturalWidth <= 64);
          card.append(small);
        }
        const columns = put("div", "", "columns");
        said.answers.forEach((each) => {
          const column = document.createElement("div");
          column.append(put("p", each.name, "label"));
          if (each.text !== undefined) column.append(put("p", each.text || "(nothing)", each.text ? "" : "nothing"));
          (each.images ?? []).forEach((source) => {
            const drawn = document.createElement("img");
            drawn.src = source;
            drawn.alt = `${each.name}: ${what}`;
            drawn.onload = () => drawn.classList.toggle("tiny", drawn.naturalWidth <= 64);
            column.append(drawn);
          });
          columns.append(column);
        });
        card.append(columns);
        wait.replaceWith(card);
      } catch {
        wait.className = "caution";
        wait.textContent = "No answer came; is `sightloop view` still running?";
      } finally {
        form.querySelectorAll("button").forEach((each) => { each.disabled = false; });
      }
    };
    form.querySelectorAll("button.run").forEach((button) => button.addEventListener("click", () => ask(button)));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      ask(form.querySelector(document.activeElement?.name === "prompt" ? "[name=draw]" : "[name=ask]"));
    });
  });
})();
