"use strict";
// Filters, sorts and pages the samples of a run; a sample's explanation is unpacked when it is opened.
const SIZE = 50;
const data = (name) => [...document.querySelectorAll(`script.${name}`)].map((element) => JSON.parse(element.textContent));
const byId = (name) => document.getElementById(name);
const [columns] = data("columns");
const [outcomes] = data("outcomes");
const batches = data("rows");
const rows = batches.flat();
const packed = [...document.querySelectorAll("script.cards")];
const state = { text: "", outcome: "*", part: "*", column: -1, falling: false, page: 0 };
let found = rows;
let unpacked = { batch: -1, cards: [] };

rows.forEach((row, place) => {
  row.place = place;
  row.searched = [row.id, row.first, row.second, row.reference].join("\n").toLowerCase();
});

function made(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function written(value, column) {
  if (value === undefined) return "–";
  const sign = value < 0 ? "−" : column.signed ? "+" : "";
  return sign + Math.abs(value).toFixed(3);
}

function select() {
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  found = rows.filter(
    (row) =>
      (state.outcome === "*" || row.outcome === state.outcome) &&
      (state.part === "*" || (row.part === state.part && row.outcome !== "failed")) &&
      words.every((word) => row.searched.includes(word)),
  );
  const turn = state.falling ? -1 : 1;
  const value = (row) => (state.column < 0 ? row.place : row.values[state.column]);
  // Samples without a score stand last, whichever way the others are sorted; equal ones keep their order.
  found.sort((a, b) => {
    const [first, second] = [value(a), value(b)];
    if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
    return turn * (first - second) || a.place - b.place;
  });
  state.page = 0;
  show();
}

function show() {
  const pages = Math.max(1, Math.ceil(found.length / SIZE));
  const start = state.page * SIZE;
  byId("body").replaceChildren(...found.slice(start, start + SIZE).map(line));
  byId("count").textContent = `${found.length} of ${rows.length} corrections`;
  byId("page").textContent = `Page ${state.page + 1} of ${pages}`;
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = state.page + 1 >= pages;
  byId("direction").textContent = state.falling ? "Order: largest first" : "Order: smallest first";
  byId("sort").value = state.column;
  for (const head of document.querySelectorAll("#head [data-column]")) {
    const sorted = Number(head.dataset.column) === state.column;
    head.setAttribute("aria-sort", sorted ? (state.falling ? "descending" : "ascending") : "none");
  }
}

function line(row) {
  const element = made("tr");
  const head = made("th", undefined, { scope: "row" });
  const button = made("button", row.id, { type: "button", "aria-expanded": "false", class: "open" });
  button.addEventListener("click", () => toggle(button, element, row));
  head.append(button);
  const caption = made("td", undefined, { class: "text" });
  caption.append(made("div", row.second));
  element.append(head, caption, made("td", outcomes[row.outcome], { class: row.outcome }));
  columns.forEach((column, place) => {
    if (column.shown) element.append(made("td", written(row.values[place], column)));
    if (place === 0) element.append(made("td", row.part.replace("_", " ") || "–"));
  });
  return element;
}

async function toggle(button, element, row) {
  if (button.getAttribute("aria-expanded") === "true") {
    button.setAttribute("aria-expanded", "false");
    element.nextSibling.remove();
    return;
  }
  button.setAttribute("aria-expanded", "true");
  const name = `sample-${row.place}`;
  button.setAttribute("aria-controls", name);
  const detail = made("tr", undefined, { class: "detail", id: name });
  const cell = made("td", "…", { colspan: element.children.length });
  detail.append(cell);
  element.after(detail);
  try {
    cell.innerHTML = await card(row.place); // every text in it was escaped when it was written
  } catch (error) {
    cell.textContent = `The explanation cannot be shown in this browser: ${error.message}`;
  }
}

// The explanation of a sample; neighbours are unpacked together, so the last batch is kept.
async function card(place) {
  const size = batches[0].length;
  const batch = Math.floor(place / size);
  if (unpacked.batch !== batch) {
    const bytes = Uint8Array.from(atob(packed[batch].textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    unpacked = { batch, cards: await new Response(stream).json() };
  }
  return unpacked.cards[place % size];
}

function sortBy(column) {
  state.falling = column === state.column ? !state.falling : column >= 0;
  state.column = column;
  select();
}

function heading(label, column) {
  const head = made("th", undefined, { scope: "col", "data-column": column, "aria-sort": "none" });
  const button = made("button", label, { type: "button" });
  button.addEventListener("click", () => sortBy(column));
  head.append(button);
  return head;
}

byId("head").append(heading("Sample", -1), made("th", "Corrected caption", { scope: "col" }), made("th", "Outcome", { scope: "col" }));
byId("sort").append(made("option", "order of the run", { value: -1 }));
columns.forEach((column, place) => {
  byId("sort").append(made("option", column.label, { value: place }));
  if (column.shown) byId("head").append(heading(column.label, place));
  if (place === 0) byId("head").append(made("th", "Decided by", { scope: "col" }));
});
for (const name of ["text", "outcome", "part"]) {
  byId(name).addEventListener("input", () => {
    state[name] = byId(name).value;
    select();
  });
}
byId("sort").addEventListener("input", () => {
  state.column = Number(byId("sort").value);
  state.falling = state.column >= 0;
  select();
});
byId("direction").addEventListener("click", () => {
  state.falling = !state.falling;
  select();
});
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
document.querySelector("form").addEventListener("reset", () => {
  Object.assign(state, { text: "", outcome: "*", part: "*", column: -1, falling: false });
  setTimeout(select); // after the fields have their first values again
});
for (const [name, step] of [["previous", -1], ["next", 1]]) {
  byId(name).addEventListener("click", () => {
    state.page += step;
    show();
    document.querySelector("table.samples").scrollIntoView();
  });
}
select();
