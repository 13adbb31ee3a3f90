// Images with their maps, and the sheet that shows one of them whole.

// The image's own shape, as large as its box allows.
function picture(card) {
  const ratio = card.width / card.height;
  const frame = make("span", { class: "picture mapped", role: "img", "aria-label": `Map of evidence over ${split(card.uri)[1]}`,
    style: { aspectRatio: ratio, width: `min(100cqw, ${100 * ratio}cqh)` } });
  if (card.thumbnail) frame.append(make("img", { class: "photo", src: card.thumbnail, alt: "" }));
  for (const tile of card.tiles) {
    const style = Object.fromEntries(["left", "top", "width", "height"].map((side) => [side, `${100 * tile[side]}%`]));
    frame.append(make("img", { class: "heat", src: tile.png, alt: "", style }));
  }
  return frame;
}

const boxed = (card) => make("span", { class: "box" }, picture(card));

function cardButton(place, places) {
  const card = DATA.gallery.cards[place];
  const [folder, name] = split(card.uri);
  const label = `${name}: ${words(card.verdict)}, p ${pValue(card.p)}`;
  return make(
    "li",
    {},
    make(
      "button",
      { class: "card", type: "button", "aria-label": label, onclick: () => openSheet(places.map((card) => ({ card })), places.indexOf(place)) },
      boxed(card),
      make("span", { class: "text" }, make("span", { class: "name" }, name), make("span", { class: "folder" }, make("bdi", {}, folder)),
        make("span", { class: "line" }, verdict(card.verdict), make("span", {}, `p ${pValue(card.p)}`))),
    ),
  );
}

function drawGallery() {
  const { sections, thumbnails, full_scale: full } = DATA.gallery;
  const drawn = sections.filter((section) => section.cards.length);
  put("scale-full", `${full} or more evidence in a patch`);
  put("gallery-about", drawn.length
    ? "Evidence of each patch at its true place; its mean is the score. Only what is framed was looked at: of a large image a part. " +
      "One scale for all maps of this page: full colour is what one patch in a hundred of them reaches, flagged or not. " +
      (thumbnails ? "Images are greyed under their maps." : "The images themselves are not in this page: mdmf report --thumbnails puts small copies in.")
    : "No image was scored.");
  put("gallery-body", ...drawn.flatMap((section) => [
    make("h3", {}, section.name),
    make("p", { class: "quiet" }, section.about),
    make("ul", { class: "cards" }, ...section.cards.map((place) => cardButton(place, section.cards))),
  ]));
}

const DIALOG = document.getElementById("dialog");
let opened = { items: [], at: 0 };

// items: {card: place in the gallery} or {row: place in the list}.
function openSheet(items, at) {
  opened = { items, at };
  drawSheet();
  if (!DIALOG.open) DIALOG.showModal();
}

const arrowId = (by) => (by < 0 ? "previous-image" : "next-image");

function step(by) {
  const at = opened.at + by;
  if (at < 0 || at >= opened.items.length) return;
  openSheet(opened.items, at);
  // What had the focus was drawn anew: without one, the keys would go nowhere.
  (document.querySelector(`#${arrowId(by)}:enabled`) ?? DIALOG).focus();
}

DIALOG.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
  if (event.key === "m") document.getElementById("mapped")?.click();
});
DIALOG.addEventListener("click", (event) => event.target === DIALOG && DIALOG.close());

function drawSheet() {
  const item = opened.items[opened.at];
  const place = item.card ?? DATA.list.card[item.row];
  const body = place >= 0 ? cardBody(DATA.gallery.cards[place]) : rowBody(item.row);
  const arrow = (text, by, label) => make("button", { class: "small", type: "button", "aria-label": label, id: arrowId(by),
    disabled: !opened.items[opened.at + by], onclick: () => step(by) }, text);
  DIALOG.replaceChildren(
    make("div", { class: "sheet" },
      make("header", {}, make("h2", { id: "dialog-title" }, place >= 0 ? DATA.gallery.cards[place].uri : DATA.list.uri[item.row]),
        make("div", { class: "buttons" }, arrow("\u2190", -1, "Previous image"), arrow("\u2192", 1, "Next image"),
          make("button", { class: "small", type: "button", onclick: () => DIALOG.close() }, "Close"))),
      ...body),
  );
}

function reproduce(rowId, runId) {
  const command = explainCommand(rowId, runId);
  const copied = make("span", { role: "status", class: "quiet" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(command);
      copied.textContent = "copied";
    } catch {
      copied.textContent = "select the line and copy it";
    }
  };
  return [
    make("h3", {}, "Reproduce or dispute"),
    make("p", { class: "quiet" }, "Reads exactly these bytes again, scores them, and says whether the verdict stands:"),
    make("code", { class: "command" }, command),
    make("div", { class: "bar" }, make("button", { class: "small", type: "button", onclick: copy }, "Copy"), copied),
  ];
}

function declaredBody(pairs) {
  return [
    make("h3", {}, "What the file says of itself"),
    pairs.length ? facts(pairs) : make("p", { class: "quiet" }, "Nothing that is known here. That says nothing of its origin."),
  ];
}

function cardBody(card) {
  const box = boxed(card);
  const toggle = make("input", { type: "checkbox", id: "mapped", checked: true,
    onchange: (event) => box.firstChild.classList.toggle("mapped", event.target.checked) });
  const mark = (patch) => box.firstChild.append(make("span", { class: "mark", style: {
    left: `${(100 * patch.left_px) / card.width}%`, top: `${(100 * patch.top_px) / card.height}%`,
    width: `${(100 * patch.side_px) / card.width}%`, height: `${(100 * patch.side_px) / card.height}%` } }));
  card.strongest.forEach(mark);
  return [
    box,
    make("div", { class: "bar" }, verdict(card.verdict), make("span", {}, `p ${pValue(card.p)} at alpha ${card.alpha}, score ${score(card.score)}`),
      card.tiles.length ? make("label", {}, toggle, " map (key m)") : null),
    card.tiles.length ? make("p", { class: "quiet" }, `${percent(card.covered)} of the image was looked at: the framed tiles. The rest has no part in the verdict.`)
      : make("p", { class: "warning" }, "The map in this row does not fit the image: the row is damaged."),
    card.no_thumbnail ? make("p", { class: "warning" }, card.no_thumbnail) : null,
    make("div", { class: "halves" },
      make("div", {}, make("h3", {}, "Image and detector"), facts(Object.entries(card.facts)), ...declaredBody(Object.entries(card.declared).map(([k, v]) => [words(k), v]))),
      make("div", {}, make("h3", {}, "Strongest patches"), make("p", { class: "quiet" },
        `Outlined in the picture. ${count(card.patches)} patches in all; the mean of their evidence is the score.`),
        table("", [["left, top", ""], ["side", "n"], ["evidence", "n"]], card.strongest.map((patch) =>
          make("tr", {}, cell(`${patch.left_px}, ${patch.top_px} px`), number(`${patch.side_px} px`), number(patch.evidence))))),
    ),
    ...reproduce(card.row_id, card.run_id),
  ];
}

function rowBody(row) {
  const list = DATA.list;
  const failed = value("outcome", row) === "failed";
  const declared = declaredColumns().map((name) => [words(name), value(name, row)]).filter(([, said]) => said !== null);
  return [
    make("div", { class: "bar" }, verdict(value("outcome", row)),
      make("span", {}, failed ? `${words(value("error", row))}: ${list.message[row] ?? ""}` : `p ${pValue(list.p[row])} at alpha ${value("alpha", row)}, score ${score(list.score[row])}`)),
    failed ? null : make("p", { class: "quiet" }, "Its map is not in this page, which has those of the gallery alone: the command below draws it."),
    make("h3", {}, "Image and detector"),
    facts([["image", imageText(row)], ["run", value("run", row)], ["detector", value("detector", row)], ["source", value("source", row)]]),
    ...declaredBody(declared),
    ...(failed ? [] : reproduce(list.row_id[row], value("run", row))),
  ];
}
