// Sort and filter the tables of class bk-sortable. The tables are whole without this script.
// A cell's value is its data-sort, else the text of its .bk-key, else its text. Columns with a .bk-key in every
// cell can be filtered by value.
for (const table of document.querySelectorAll("table.bk-sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const titles = heads.map((head) => head.textContent.trim());
  const rows = [...body.rows].map((element) => ({
    element,
    text: element.textContent.toLowerCase(),
    values: [...element.cells].map(
      (cell) => cell.dataset.sort ?? (cell.querySelector(".bk-key") ?? cell).textContent.trim()),
  }));
  const order = new Intl.Collator("en", { numeric: true }).compare;
  const form = document.createElement("form");
  const status = document.createElement("p");
  let sorted = { column: -1, falling: false };

  const control = (title, field) => {
    const label = document.createElement("label");
    label.append(`${title} `, field);
    form.append(label);
    return field;
  };
  const search = control("Search", document.createElement("input"));
  search.type = "search";
  const choices = [];
  for (const [column, title] of titles.entries()) {
    if (!rows.every((row) => row.element.cells[column].querySelector(".bk-key"))) continue;
    const select = control(title, document.createElement("select"));
    select.add(new Option("all", ""));
    for (const value of new Set(rows.map((row) => row.values[column]))) select.add(new Option(value, value));
    choices.push({ column, select });
  }
  const reset = document.createElement("button");
  reset.type = "reset";
  reset.textContent = "Reset";
  form.append(reset);

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const fits = words.every((word) => row.text.includes(word))
        && choices.every(({ column, select }) => !select.value || row.values[column] === select.value);
      row.element.hidden = !fits;
      shown += fits;
    }
    const way = sorted.falling ? "last to first" : "first to last";
    const by = sorted.column < 0 ? "" : `, sorted by ${titles[sorted.column]}, ${way}`;
    status.textContent = `${shown} of ${rows.length} rows shown${by}.`;
  };

  const sort = (column, falling) => {
    sorted = { column, falling };
    const compare = (one, other) => {
      const [a, b] = [one.values[column], other.values[column]];
      if (a === "–" || b === "–") return (a === "–") - (b === "–"); // what is not there comes last either way
      const numbers = a !== "" && b !== "" && !isNaN(a) && !isNaN(b);
      return (numbers ? a - b : order(a, b)) * (falling ? -1 : 1);
    };
    const inOrder = column < 0 ? rows : [...rows].sort(compare);
    body.append(...inOrder.map((row) => row.element));
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    filter();
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = titles[column];
    button.addEventListener("click", () => sort(column, sorted.column === column && !sorted.falling));
    head.replaceChildren(button);
  });
  let rest;
  form.addEventListener("input", () => { clearTimeout(rest); rest = setTimeout(filter, 150); });
  form.addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  form.addEventListener("reset", () => setTimeout(() => sort(-1, false)));
  form.className = "bk-filter";
  form.setAttribute("role", "search");
  form.setAttribute("aria-label", table.caption.textContent.replace(/#$/, "").trim());
  status.className = "bk-shown";
  status.setAttribute("role", "status");
  document.getElementById(`${table.id}-tools`).append(form, status);
  filter();
}
