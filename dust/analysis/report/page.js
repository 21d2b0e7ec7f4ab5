"use strict";
(() => {
  const data = document.getElementById("data");
  const rows = data ? JSON.parse(data.textContent) : [];
  const body = document.querySelector("#clips tbody");
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const most = 500;
  let pair = null;
  let order = null;

  function cell(row, text, numeric) {
    const td = document.createElement("td");
    td.textContent = text;
    if (numeric) td.className = "n";
    row.appendChild(td);
  }
  function show() {
    if (!body) return;
    const words = filter.value.toLowerCase();
    let found = rows.filter((r) => (!pair || (r[1] === pair[0] && r[2] === pair[1])) &&
      (!words || r.slice(0, 3).some((text) => text.toLowerCase().includes(words))));
    if (order) found = [...found].sort(order);
    body.replaceChildren(...found.slice(0, most).map((r) => {
      const tr = document.createElement("tr");
      cell(tr, r[0]); cell(tr, r[1]); cell(tr, r[2]); cell(tr, r[3] === null ? "" : r[3].toFixed(3), true);
      return tr;
    }));
    const which = pair ? ` of ${pair[0]} taken for ${pair[1]}` : "";
    const cut = found.length > most ? `, the first ${most}` : "";
    shown.textContent = `${found.length} clips${which}${cut}`;
  }
  function compare(index, down) {
    return (a, b) => {
      const [x, y] = down ? [b[index], a[index]] : [a[index], b[index]];
      return typeof x === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
    };
  }
  document.querySelectorAll(".pick").forEach((one) => {
    const pick = () => {
      document.querySelectorAll(".picked").forEach((other) => other.classList.remove("picked"));
      one.classList.add("picked");
      pair = [one.dataset.l, one.dataset.p];
      if (filter) filter.value = "";
      show();
      document.getElementById("clips")?.scrollIntoView({ block: "center" });
    };
    one.addEventListener("click", pick);
    one.addEventListener("keydown", (event) => { if (event.key === "Enter") pick(); });
  });
  document.querySelectorAll("table.sortable").forEach((table) => {
    let down = false;
    table.querySelectorAll("th").forEach((head, index) => head.addEventListener("click", () => {
      down = !down;
      if (table.id === "clips") { order = compare(index, down); show(); return; }
      const lines = [...table.querySelectorAll("tr")].slice(1);
      const value = (tr) => { const text = tr.children[index].textContent; return text !== "" && !isNaN(text) ? Number(text) : text; };
      lines.sort((a, b) => compare(0, down)([value(a)], [value(b)]));
      lines.forEach((tr) => tr.parentNode.appendChild(tr));
    }));
  });
  filter?.addEventListener("input", () => { pair = null; show(); });
  document.getElementById("all")?.addEventListener("click", () => {
    pair = null; filter.value = "";
    document.querySelectorAll(".picked").forEach((other) => other.classList.remove("picked"));
    show();
  });
  show();
})();
