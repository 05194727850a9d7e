(() => {
  "use strict";
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const hide = () => { tip.hidden = true; };
  const show = (text, box) => {
    tip.textContent = text;
    tip.hidden = false;
    const wide = tip.offsetWidth, high = tip.offsetHeight;
    const left = Math.min(Math.max(8, box.left + box.width / 2 - wide / 2), innerWidth - wide - 8);
    const above = box.top - high - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
  };

  // All listeners are the document's, so that parts of the page may be replaced while it is open.
  const within = (event, selector) => (event.target instanceof Element ? event.target.closest(selector) : null);

  // Words of the gallery: their numbers at once, instead of after the browser's delay.
  document.addEventListener("pointerover", (event) => {
    const word = within(event, ".caption .token");
    if (!word) return;
    word.dataset.tip ??= word.title;
    word.removeAttribute("title");
    show(word.dataset.tip, word.getBoundingClientRect());
  });
  document.addEventListener("pointerout", (event) => { if (within(event, ".caption .token")) hide(); });
  addEventListener("scroll", hide, { passive: true });

  // Charts: one position for all of them, so that every curve is read at the same step.
  const columns = new WeakMap();
  const columnsOf = (figure) => {
    if (!columns.has(figure)) {
      figure.querySelectorAll(".hover title").forEach((title) => title.remove());
      columns.set(figure, [...figure.querySelectorAll(".hover rect")].map((column) => ({
        x: Number(column.dataset.x),
        note: column.dataset.note,
      })));
    }
    return columns.get(figure);
  };
  const charts = () => document.querySelectorAll(".chart");
  let reading = false;
  const leave = () => {
    if (!reading) return;
    reading = false;
    hide();
    charts().forEach((figure) => {
      figure.classList.remove("read");
      const value = figure.querySelector(".value");
      if (value) value.textContent = value.dataset.latest;
    });
  };
  document.addEventListener("pointermove", (event) => {
    const svg = within(event, ".chart svg");
    if (!svg) return leave();
    reading = true;
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    charts().forEach((figure) => {
      const found = columnsOf(figure);
      if (!found.length || !figure.offsetParent) return;
      const nearest = found.reduce((a, b) => (Math.abs(b.x - at) < Math.abs(a.x - at) ? b : a));
      figure.querySelector(".cross").setAttribute("transform", `translate(${nearest.x} 0)`);
      const value = figure.querySelector(".value");
      if (value) value.textContent = nearest.note;
      else if (figure.contains(svg)) show(nearest.note, box);
      figure.classList.add("read");
    });
  });
  document.documentElement.addEventListener("pointerleave", leave);

  // Images: a click shows one as large as the window allows.
  const dialog = document.createElement("dialog");
  dialog.id = "large";
  document.body.append(dialog);
  dialog.addEventListener("click", () => dialog.close());
  document.addEventListener("click", (event) => {
    const image = within(event, ".card img, .pictures img, .member img, .tried img");
    if (!image) return;
    const large = image.cloneNode();
    const text = document.createElement("p");
    text.textContent = image.alt;
    large.className = image.classList.contains("tiny") ? "tiny" : "";
    dialog.replaceChildren(large, text);
    dialog.showModal();
  });

  // Further samples: made when they are asked for.
  document.addEventListener("toggle", (event) => {
    if (!(event.target instanceof Element) || !event.target.matches("details.more")) return;
    const waiting = event.target.querySelector(":scope > template");
    if (waiting) waiting.replaceWith(waiting.content);
  }, true);

  // Galleries: buttons instead of a stack of folded steps.
  document.querySelectorAll(".steps").forEach((stack) => {
    const steps = [...stack.querySelectorAll(":scope > .step")];
    if (steps.length < 2) return;
    const row = document.createElement("div");
    row.className = "choice";
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", "Step of the gallery");
    const choose = (chosen) => steps.forEach((step, index) => {
      step.open = true;
      step.hidden = index !== chosen;
      row.children[index].setAttribute("aria-pressed", String(index === chosen));
    });
    steps.forEach((step, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = step.querySelector("summary").textContent;
      button.addEventListener("click", () => choose(index));
      row.append(button);
    });
    stack.classList.add("chosen");
    stack.prepend(row);
    choose(steps.length - 1);
  });
})();
