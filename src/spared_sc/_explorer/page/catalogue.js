// The catalogue: filters, the table of data sets, what is known of the chosen one, and sums by tissue.
"use strict";

(async () => {
  const $ = (id) => document.getElementById(id);
  const FILTERS = { organism: "Organism", technology: "Technology", collection: "Collection", task: "Split" };
  const WORDS = { visium: "Visium", st: "Spatial Transcriptomics" };
  const COLUMNS = [ // key, heading, how it is shown
    ["key", "set", (set) => set.key],
    ["title", "name", (set) => set.title],
    ["organism", "organism", (set) => set.organism],
    ["tissue", "tissue", (set) => set.tissue],
    ["n_sections", "sections", (set) => count(set.n_sections)],
    ["spots", "spots", (set) => count(set.spots)],
    ["missing_before", "missing %, before → after selection", missing],
  ];
  const BAR = "http://www.w3.org/2000/svg";

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  const count = (number) => (number === null ? "–" : number.toLocaleString("en"));
  const word = (text) => WORDS[text] ?? (text || "none");

  /** Missing shares before and after the selection of genes, as a bar with a mark. */
  function missing(set) {
    if (set.missing_before === null) return "–";
    const svg = document.createElementNS(BAR, "svg");
    svg.setAttribute("width", 100);
    svg.setAttribute("height", 10);
    svg.setAttribute("aria-hidden", "true");
    for (const [width, colour] of [[100, "#eceff1"], [set.missing_before, "#b9c4cd"], [set.missing_after, "#0b5cad"]]) {
      const bar = document.createElementNS(BAR, "rect");
      for (const [name, value] of Object.entries({ width, height: 10, fill: colour })) bar.setAttribute(name, value);
      svg.append(bar);
    }
    return make("span", { className: "bars" }, svg, `${set.missing_before} → ${set.missing_after}`);
  }

  const { head: page } = await SparedExplorer.load("page").catch((error) => {
    $("note").textContent = error.message;
    throw error;
  });
  const choice = { key: page.sets[0]?.key, sort: "key", down: false };
  const filters = {};

  function setUp() {
    $("report").hidden = !page.report;
    const search = make("input", { type: "search", placeholder: "Search", ariaLabel: "Search names, tissues and citations" });
    search.oninput = update;
    filters.text = search;
    $("filters").append(search);
    for (const [key, label] of Object.entries(FILTERS)) {
      const values = [...new Set(page.sets.map((set) => set[key]))].sort();
      const select = make("select", { ariaLabel: label }, make("option", { value: "*", textContent: `${label}: all` }),
        ...values.map((value) => make("option", { value, textContent: word(value) })));
      select.onchange = update;
      filters[key] = select;
      $("filters").append(select);
    }
    $("note").textContent = `Written by spared-sc ${page.version}. Numbers are those that the paper of SpaRED prints; ` +
      "the details say what nobody has checked.";
  }

  function shown() {
    const wanted = filters.text.value.trim().toLowerCase();
    const sets = page.sets.filter((set) =>
      Object.keys(FILTERS).every((key) => filters[key].value === "*" || filters[key].value === set[key]) &&
      [set.key, set.title, set.tissue, set.citation].some((text) => text.toLowerCase().includes(wanted)));
    const by = (set) => set[choice.sort];
    sets.sort((a, b) => (by(a) === null) - (by(b) === null) ||
      (typeof by(a) === "number" ? by(a) - by(b) : String(by(a)).localeCompare(String(by(b)))));
    return choice.down ? sets.reverse() : sets;
  }

  function update() {
    const sets = shown();
    if (sets.length && !sets.some((set) => set.key === choice.key)) choice.key = sets[0].key;
    const heads = COLUMNS.map(([key, label]) => {
      const button = make("button", { type: "button", textContent: label });
      button.onclick = () => {
        choice.down = choice.sort === key && !choice.down;
        choice.sort = key;
        update();
        [...document.querySelectorAll("#sets thead button")].find((one) => one.textContent === label)?.focus();
      };
      const head = make("th", { scope: "col" }, button);
      if (choice.sort === key) head.setAttribute("aria-sort", choice.down ? "descending" : "ascending");
      return head;
    });
    const rows = sets.map((set) => {
      const button = make("button", { type: "button", textContent: set.key, title: set.title });
      button.onclick = () => {
        choice.key = set.key;
        mark();
      };
      const cells = COLUMNS.slice(1).map(([, , text]) => make("td", {}, text(set)));
      const row = make("tr", {}, make("th", { scope: "row" }, button), ...cells);
      row.dataset.key = set.key;
      row.onclick = button.onclick;
      return row;
    });
    $("sets").replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
    const sum = (key) => count(sets.reduce((total, set) => total + (set[key] ?? 0), 0));
    const unknown = sets.filter((set) => set.spots === null).length;
    $("summary").textContent = `${sets.length} data sets, ${sum("n_sections")} sections, ${sum("spots")} spots` +
      (unknown ? ` (those of ${unknown} data sets are not known)` : "");
    showTissues(sets);
    mark();
    document.body.dataset.state = "ready";
  }

  function mark() {
    for (const row of document.querySelectorAll("#sets tbody tr")) {
      row.classList.toggle("chosen", row.dataset.key === choice.key);
      row.querySelector("button").setAttribute("aria-pressed", row.dataset.key === choice.key);
    }
    showDetails(page.sets.find((set) => set.key === choice.key));
  }

  function showDetails(set) {
    if (!set) {
      $("details").replaceChildren();
      return;
    }
    document.title = `${set.key} · Data sets`;
    const unsure = (name) => (set.unverified.includes(name) ? " (nobody has checked this)" : "");
    const copy = make("button", { type: "button", textContent: "Copy" });
    copy.onclick = async () => {
      try {
        await navigator.clipboard.writeText(set.call);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(copy.previousElementSibling); // no clipboard here: it can be copied by hand
      }
    };
    const facts = [
      ["organism, tissue", `${set.organism}, ${set.tissue}`],
      ["technology", word(set.technology)],
      ["sections", `${count(set.n_sections)} of ${count(set.n_subjects)} ${set.n_subjects === 1 ? "donor" : "donors"}`],
      ["split", `${set.train} train, ${set.val} validation, ${set.test} test${set.task ? ` (${set.task})` : ""}`],
      ["missing", set.missing_before === null ? "not known" : `${set.missing_before} % of all entries, ${set.missing_after} % in the ${set.genes} selected genes`],
      ["licence", (set.licence || "not known") + unsure("licence")],
      ["citation", (set.citation || "not known") + unsure("citation")],
      ["doi", set.doi || "not known"],
      ["source", set.source || "not known"],
      ["notes", set.notes],
    ].filter(([, text]) => text);
    const list = make("dl", {}, ...facts.flatMap(([name, text]) => [make("dt", { textContent: name }), make("dd", {}, linked(name, text))]));
    $("details").replaceChildren(
      make("h2", { textContent: `${set.key}: ${set.title}` }),
      make("p", { className: "row" }, make("code", { textContent: set.call }), copy), list, scoresOf(set));
  }

  /** Addresses as links, which nothing follows by itself. */
  function linked(name, text) {
    const address = name === "doi" ? `https://doi.org/${text}` : text;
    if (!["doi", "source"].includes(name) || !/^https:\/\/\S+$/.test(address) || text === "not known") return text;
    return make("a", { href: address, rel: "noreferrer noopener", target: "_blank", textContent: text });
  }

  function scoresOf(set) {
    if (!set.scores.length) return make("p", { className: "quiet", textContent: "No published scores." });
    const number = (value) => (value === null ? "–" : value.toFixed(3));
    const rows = set.scores.map((one) => make("tr", {}, make("th", { scope: "row", textContent: one.model }),
      make("td", { textContent: number(one.mse) }), make("td", { textContent: number(one.pcc) })));
    const heads = ["model", "MSE", "correlation"].map((text) => make("th", { scope: "col", textContent: text }));
    return make("div", {},
      make("h3", { textContent: `Published scores on the ${set.scored} sections` }),
      make("table", { className: "scores" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows)),
      make("p", { className: "quiet", textContent: "By SpaRED's authors, on detected entries: computed by other code than this package's." }));
  }

  function showTissues(sets) {
    const groups = new Map();
    for (const set of sets) groups.set(set.tissue, [...(groups.get(set.tissue) ?? []), set]);
    const sums = [...groups].map(([tissue, of]) => ({
      tissue, organisms: [...new Set(of.map(({ organism }) => organism))].sort().join(", "), sets: of.length,
      sections: of.reduce((sum, set) => sum + set.n_sections, 0), spots: of.reduce((sum, set) => sum + (set.spots ?? 0), 0),
    })).sort((a, b) => b.spots - a.spots);
    const most = Object.fromEntries(["sets", "sections", "spots"].map((key) => [key, Math.max(1, ...sums.map((one) => one[key]))]));
    const bar = (one, key) => {
      const filled = make("span", { className: "fill" });
      filled.style.width = `${(100 * one[key]) / most[key]}px`;
      return make("td", {}, make("span", { className: "bars" }, filled, count(one[key])));
    };
    const heads = ["tissue", "organism", "data sets", "sections", "spots"].map((text) => make("th", { scope: "col", textContent: text }));
    $("tissues").replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...sums.map((one) =>
      make("tr", {}, make("th", { scope: "row", textContent: one.tissue }), make("td", { textContent: one.organisms }),
        ...["sets", "sections", "spots"].map((key) => bar(one, key))))));
  }

  setUp();
  update();
})();
