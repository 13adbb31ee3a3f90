// The list of images: filtered and sorted as places in columns, a page of them in the document at a time.

const PAGE_ROWS = 50;
const LIST = DATA.list;
const state = { order: [], page: 0, sort: "p", descending: false, filters: {}, text: "" };

function value(column, row) {
  const place = LIST[column].places[row];
  return place < 0 ? null : LIST[column].words[place];
}

const declaredColumns = () => Object.keys(LIST).filter((name) => /^(declared_|c2pa_)/.test(name));

function imageText(row) {
  const size = LIST.width[row] === null ? "" : `${LIST.width[row]} x ${LIST.height[row]} px`;
  const quality = value("JPEG quality", row);
  return [value("format", row), size, quality && /\d/.test(quality) ? `quality ${quality}` : null].filter(Boolean).join(", ");
}

const FILTERS = ["outcome", "format", "JPEG quality", "size", "source", "error"];

const COLUMNS = [
  ["uri", "image", ""],
  ["outcome", "verdict", ""],
  ["p", "p-value", "n"],
  ["score", "score", "n"],
  ["pixels", "image size", "n"],
  ["format", "format", ""],
];

function sortKeys() {
  if (state.sort === "pixels") return LIST.width.map((width, row) => (width === null ? null : width * LIST.height[row]));
  if (LIST[state.sort].places) return LIST[state.sort].places.map((_, row) => value(state.sort, row));
  return LIST[state.sort];
}

function refresh() {
  const text = state.text.toLowerCase();
  // A filter is a place in a table of words, so that a row is tested with one comparison. A word of no listed image has none.
  const wanted = Object.entries(state.filters).map(([column, word]) => [LIST[column].places, LIST[column].words.indexOf(word)]);
  state.order = [...LIST.uri.keys()].filter((row) =>
    wanted.every(([places, place]) => place >= 0 && places[row] === place) && (!text || LIST.uri[row].toLowerCase().includes(text)));
  const keys = sortKeys();
  const sign = state.descending ? -1 : 1;
  state.order.sort((a, b) => {
    if (keys[a] === keys[b]) return a - b;
    if (keys[a] === null) return 1;
    if (keys[b] === null) return -1;
    return keys[a] < keys[b] ? -sign : sign;
  });
  state.page = 0;
  drawPage();
}

function listRow(row, at) {
  const [folder, name] = split(LIST.uri[row]);
  const open = () => openSheet(state.order.map((row) => ({ row })), at);
  return make(
    "tr",
    {},
    cell(make("button", { class: "plain open", type: "button", onclick: open }, name), make("span", { class: "folder" }, folder)),
    cell(verdict(value("outcome", row)), value("error", row) ? ` ${words(value("error", row))}` : ""),
    number(pValue(LIST.p[row])),
    number(score(LIST.score[row])),
    number(LIST.width[row] === null ? "" : `${LIST.width[row]} x ${LIST.height[row]}`),
    cell(value("format", row) ?? ""),
  );
}

function drawHead() {
  return make("thead", {}, make("tr", {}, ...COLUMNS.map(([column, name, kind]) => {
    const sorted = state.sort === column;
    const press = () => {
      state.descending = sorted && !state.descending;
      state.sort = column;
      refresh();
      document.getElementById(`sort-${column}`).focus();
    };
    return make("th", { scope: "col", class: kind, "aria-sort": sorted ? (state.descending ? "descending" : "ascending") : "none" },
      make("button", { class: "sort", type: "button", id: `sort-${column}`, onclick: press }, name));
  })));
}

function drawPage() {
  const first = state.page * PAGE_ROWS;
  const rows = state.order.slice(first, first + PAGE_ROWS);
  put("list", drawHead(), make("tbody", {}, ...rows.map((row, i) => listRow(row, first + i))));
  const last = Math.max(Math.ceil(state.order.length / PAGE_ROWS) - 1, 0);
  const none = !DATA.images ? "There are no images."
    : LIST.listed === DATA.images ? "No image fits these filters."
    : "No listed image fits these filters: failed images come last and may not be listed.";
  const shown = rows.length ? `${count(first + 1)} to ${count(first + rows.length)} of ${count(state.order.length)}` : none;
  put("list-status", state.order.length === LIST.listed ? shown : `${shown} (${count(LIST.listed)} listed in all)`);
  const go = (text, page, id) => make("button", { class: "small", type: "button", id, disabled: page < 0 || page > last || page === state.page,
    onclick: () => { state.page = page; drawPage(); (document.querySelector(`#${id}:enabled`) ?? document.querySelector("#list .open"))?.focus(); } }, text);
  put("pager", go("First", 0, "first"), go("Previous", state.page - 1, "previous"), make("span", {}, `page ${count(state.page + 1)} of ${count(last + 1)}`),
    go("Next", state.page + 1, "next"), go("Last", last, "last"));
}

function drawFilters() {
  const search = make("div", { class: "search" }, make("label", { for: "search" }, "name or folder contains (key /)"),
    make("input", { type: "search", id: "search", autocomplete: "off", oninput: (event) => { state.text = event.target.value; refresh(); } }));
  const selects = FILTERS.filter((column) => LIST[column].words.length > 1 || column === "error" && LIST.error.words.length).map((column) => {
    const id = `filter-${column.replace(" ", "-")}`;
    const choose = (event) => {
      if (event.target.value === "") delete state.filters[column];
      else state.filters[column] = LIST[column].words[Number(event.target.value)];
      refresh();
    };
    const options = LIST[column].words.map((word, place) => [word, place]).sort((a, b) => (a[0] < b[0] ? -1 : 1));
    return make("div", {}, make("label", { for: id }, column === "outcome" ? "verdict" : column), make("select", { id, onchange: choose }, make("option", { value: "" }, "any"),
      // A folder's name is a stranger's, and another folder's may differ in an underscore alone.
      ...options.map(([word, place]) => make("option", { value: place }, column === "source" ? word : words(word)))));
  });
  const clear = make("button", { class: "small", type: "button", onclick: () => { clearFilters(); refresh(); } }, "Clear");
  put("filters", search, ...selects, clear);
}

function clearFilters() {
  state.filters = {};
  state.text = "";
  document.getElementById("filters").reset();
}

// From a table of strata or errors to its images.
function showOnly(column, word) {
  clearFilters();
  state.filters[column] = word;
  const select = document.getElementById(`filter-${column.replace(" ", "-")}`);
  if (select) select.value = String(LIST[column].words.indexOf(word)); // -1 chooses none of them
  refresh();
  const section = document.getElementById("images");
  section.scrollIntoView();
  section.focus({ preventScroll: true });
}

document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("list").addEventListener("keydown", (event) => {
  const buttons = [...document.querySelectorAll("#list .open")];
  const at = buttons.indexOf(document.activeElement);
  const by = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
  if (at < 0 || !by) return;
  event.preventDefault();
  buttons[at + by]?.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, select, textarea") || DIALOG.open) return;
  event.preventDefault();
  document.getElementById("search").focus();
});

drawHeader();
drawFigures();
drawWarnings();
drawStrata();
drawErrors();
drawGallery();
drawRuns();
put("list-about", LIST.listed === DATA.images
  ? "Every image. Arrow keys or j and k move, Enter opens, Escape closes; in an opened image the arrow keys go on to the next."
  : `The ${count(LIST.listed)} images with the smallest p-values, of ${count(DATA.images)}: figures and charts are over all of them. mdmf latest --json lists every one.`);
drawFilters();
refresh();
