"use strict";

// ---- tabs: one section at a time, that of the address's anchor

const sections = [...document.querySelectorAll("main > section")];

function open_anchor() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const section = target?.closest("main > section") ?? sections[0];
  for (const each of sections) each.hidden = each !== section;
  for (const link of document.querySelectorAll("nav a"))
    link.toggleAttribute("aria-current", [section.id, target?.id].includes(link.hash.slice(1)));
  if (target?.matches("tr")) target.querySelector("details").open = true;
  if (target && target !== section) target.scrollIntoView();
  else scrollTo(0, 0);
  document.querySelector("nav .tab[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  hide();
}

// ---- figures: the values of the mark that is pointed at; a click keeps them and adds what they were made by

const record = document.getElementById("record");
let pinned = null;

function tell(mark) {
  hide();
  const about = mark.closest("article").dataset.about;
  const values = { ...JSON.parse(mark.dataset.values), ...(mark === pinned && about ? JSON.parse(about) : {}) };
  const list = document.createElement("dl");
  for (const [name, value] of Object.entries(values)) {
    list.appendChild(document.createElement("dt")).textContent = name;
    list.appendChild(document.createElement("dd")).textContent = value;
  }
  record.replaceChildren(list);
  record.hidden = false;
  record.classList.toggle("pinned", mark === pinned);
  mark.classList.add("told");
  const at = mark.getBoundingClientRect();
  const left = Math.min(at.right + 8, innerWidth - record.offsetWidth - 8);
  const below = at.bottom + 8 + record.offsetHeight < innerHeight;
  record.style.left = `${Math.max(8, left)}px`;
  record.style.top = `${Math.max(8, below ? at.bottom + 8 : at.top - record.offsetHeight - 8)}px`;
}

function hide() {
  record.hidden = true;
  document.querySelector(".told")?.classList.remove("told");
}

addEventListener("pointerover", (event) => {
  if (pinned) return;
  const mark = event.target.closest(".mark");
  if (mark) tell(mark);
  else hide();
});
addEventListener("click", (event) => {
  if (record.contains(event.target)) return;
  const mark = event.target.closest(".mark");
  pinned = mark === pinned ? null : mark;
  if (mark) tell(mark);
  else hide();
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  pinned = null;
  hide();
});

// ---- tables: sorted by the column whose head is clicked, downloaded as CSV

const text_of = (cell) => cell.dataset.text ?? cell.textContent.trim().replace(/\s+/g, " ");
const SECONDS = { s: 1, min: 60, h: 3600 };  // a column of times has several units

function number_of(text) {
  const plain = text.replaceAll(",", "").replace("−", "-");
  return parseFloat(plain) * (SECONDS[plain.split(" ")[1]] ?? 1);
}

function sort_by(table, head) {
  const place = head.cellIndex, down = head.ariaSort === "ascending", body = table.tBodies[0];
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keyed = [...body.rows].map((row) => [text_of(row.cells[place]), row]);
  const compare = ([one], [other]) => {
    const numbers = [number_of(one), number_of(other)], missing = numbers.map(Number.isNaN);
    if (missing[0] && missing[1]) return one.localeCompare(other, "en", { numeric: true });
    return missing[0] - missing[1] || numbers[0] - numbers[1];
  };
  keyed.sort((one, other) => (down ? -1 : 1) * compare(one, other));
  body.append(...keyed.map(([, row]) => row));
}

function as_csv(table) {
  const plain = (text) => (text === "–" ? "" : text.replaceAll("−", "-"));  // as spreadsheets read numbers
  const quoted = (cell) => `"${plain(text_of(cell)).replaceAll('"', '""')}"`;
  return [...table.rows].map((row) => [...row.cells].map(quoted).join(",")).join("\r\n");
}

for (const figure of document.querySelectorAll("figure.table")) {
  const table = figure.querySelector("table"), caption = figure.querySelector("figcaption");
  table.classList.add("sorts");
  table.tHead.addEventListener("click", (event) => sort_by(table, event.target.closest("th")));
  const button = caption.appendChild(document.createElement("button"));
  button.className = "csv";
  button.textContent = "CSV";
  button.title = "Download this table as CSV";
  button.addEventListener("click", () => {
    const link = document.createElement("a"), of = figure.closest("article, section").id;
    link.href = URL.createObjectURL(new Blob([as_csv(table)], { type: "text/csv" }));
    link.download = `${of || "table"}.csv`;
    link.click();
  });
}

document.querySelector("nav").classList.add("live");
addEventListener("hashchange", open_anchor);
open_anchor();
