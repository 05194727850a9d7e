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

  // Words of the gallery: their numbers at once, instead of after the browser's delay.
  document.querySelectorAll(".caption .token").forEach((word) => {
    const text = word.title;
    word.removeAttribute("title");
    word.addEventListener("pointerenter", () => show(text, word.getBoundingClientRect()));
    word.addEventListener("pointerleave", hide);
  });
  addEventListener("scroll", hide, { passive: true });

  // Charts: one position for all of them, so that every curve is read at the same step.
  const charts = [...document.querySelectorAll(".chart")].map((figure) => ({
    figure,
    svg: figure.querySelector("svg"),
    cross: figure.querySelector(".cross"),
    value: figure.querySelector(".value"),
    columns: [...figure.querySelectorAll(".hover rect")].map((column) => ({
      x: Number(column.dataset.x),
      note: column.dataset.note,
    })),
  }));
  charts.forEach(({ figure }) => figure.querySelectorAll(".hover title").forEach((title) => title.remove()));
  const leave = () => charts.forEach(({ figure, value }) => {
    figure.classList.remove("read");
    value.textContent = value.dataset.latest;
  });
  const read = (event) => {
    const svg = event.currentTarget;
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    charts.forEach(({ figure, cross, value, columns }) => {
      if (!columns.length) return;
      const nearest = columns.reduce((a, b) => (Math.abs(b.x - at) < Math.abs(a.x - at) ? b : a));
      cross.setAttribute("transform", `translate(${nearest.x} 0)`);
      value.textContent = nearest.note;
      figure.classList.add("read");
    });
  };
  charts.forEach(({ svg }) => {
    svg.addEventListener("pointermove", read);
    svg.addEventListener("pointerleave", leave);
  });

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
