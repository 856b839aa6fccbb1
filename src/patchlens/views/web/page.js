
"use strict";

// Draws the document that patchlens.views.document makes. Every text in it came from a corpus, a model or a
// file name, so it only ever becomes textContent. Places are (row, column), layers are numbers of the model.

(() => {
  const byId = (id) => document.getElementById(id);
  const doc = JSON.parse(byId("data").textContent);
  const ABOUT = { latent: "nearest words in context", logit: "what the model would say next", embedding: "nearest input embeddings", random: "drawn by chance" };
  const KINDS = { logit: "Logit", similarity: "Cosine similarity" }; // what a lens may measure; some measure nothing
  const RAMP = [[44, 42, 114], [28, 109, 142], [41, 163, 127], [246, 215, 70]];

  // ---------------------------------------------------------------- the document, decoded

  function typed({ type, base64 }) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new { Uint8: Uint8Array, Uint16: Uint16Array, Uint32: Uint32Array, Int32: Int32Array, Float32: Float32Array }[type](bytes.buffer);
  }

  const { layers, lenses, images, words, tokens, sentences } = doc;
  const entries = Object.fromEntries(Object.entries(doc.entries).map(([name, array]) => [name, typed(array)]));
  const lowered = words.map((word) => word.toLowerCase());
  const blocks = new Map();
  for (const raw of doc.blocks) {
    const block = { k: raw.k, kind: raw.kind, ids: typed(raw.entries), values: typed(raw.values), contextual: raw.context_layers && typed(raw.context_layers) };
    block.absent = 256 ** block.ids.BYTES_PER_ELEMENT - 1;
    blocks.set(`${raw.image} ${raw.lens}`, block);
  }
  for (const image of images) {
    image.boxes = typed(image.boxes);
    image.seconds = image.seconds && typed(image.seconds);
    image.tokenAt = new Map(); // its place in words → index of its token
    image.rows.forEach((row, i) => { if (row >= 0) image.tokenAt.set(placeIn(image, i), i); });
    for (const view of image.views) view.tokens = [...image.tokenAt.values()].filter((token) => view.tiles.includes(image.tiles[token]));
  }

  /** "row,column", with the tile before it where there are several. */
  function placeIn(image, token) {
    const place = `${image.rows[token]},${image.columns[token]}`;
    return image.views.length > 1 || image.views[0]?.tiles.length > 1 ? `${image.tiles[token]},${place}` : place;
  }
  const viewOf = (image, token) => image.views.findIndex((view) => view.tiles.includes(image.tiles[token]));

  /** The candidates of one token, best first; empty where nothing was read. */
  function candidates(lens, layer = state.layer, token = shownToken(), image = state.image) {
    const block = blocks.get(`${image} ${lens}`);
    const found = [];
    if (!block || token < 0) return found;
    const start = (layer * images[image].positions.length + token) * block.k;
    for (let i = start; i < start + block.k && block.ids[i] !== block.absent; i++) {
      const id = block.ids[i];
      const at = entries.sentence[id];
      found.push({
        id, word: words[entries.word[id]].trim() || tokens[entries.token[id]], token: tokens[entries.token[id]], kind: block.kind, value: block.values[i],
        contextLayer: block.contextual && block.contextual[i] !== 255 ? block.contextual[i] : null,
        sentence: at < 0 ? null : sentences[at], start: entries.word_start[id], end: entries.word_end[id], prefixEnd: entries.prefix_end[id],
      });
    }
    return found;
  }

  /** The value at a share of the sorted values, between neighbours. */
  function quantile(sorted, share) {
    if (!sorted.length) return 0;
    const at = share * (sorted.length - 1), low = Math.floor(at), high = Math.ceil(at);
    return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
  }

  /** What counts as low and high: similarities of a model lie in a narrow band of its own, logits in another. */
  function range(lens, which) {
    const key = [which, state.image, lens, state.layer].join();
    if (!ranges.has(key)) {
      const block = blocks.get(`${state.image} ${lens}`);
      const values = [];
      if (block) {
        const size = images[state.image].positions.length * block.k;
        for (let i = state.layer * size; i < (state.layer + 1) * size; i += which === "best" ? block.k : 1)
          if (block.ids[i] !== block.absent && Number.isFinite(block.values[i])) values.push(block.values[i]);
      }
      values.sort((a, b) => a - b);
      ranges.set(key, { low: quantile(values, 0.02), high: quantile(values, 0.98) });
    }
    return ranges.get(key);
  }
  const ranges = new Map();
  const share = (value, { low, high }) => (high > low && Number.isFinite(value) ? Math.min(1, Math.max(0, (value - low) / (high - low))) : 1);
  const numeral = (value, kind) => (Number.isFinite(value) ? value.toFixed(kind === "logit" ? 1 : 3).replace("-", "−") : "–");

  // ---------------------------------------------------------------- the state, kept in the address

  const roomy = images.every((image) => image.views.every((view) => view.columns <= 16));
  const state = { image: 0, view: 0, layer: Math.floor((layers.length - 1) / 2), lens: 0, token: -1, hover: -1, word: "", words: roomy, colour: false, grid: true, enlarge: false };
  const shownToken = () => (state.hover >= 0 ? state.hover : state.token);

  function readAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const pick = (found) => (found >= 0 ? found : null);
    state.image = pick(images.findIndex((image) => image.name === asked.get("image"))) ?? state.image;
    state.layer = pick(asked.has("layer") ? layers.indexOf(Number(asked.get("layer"))) : -1) ?? state.layer;
    state.lens = pick(lenses.findIndex((lens) => lens.name === asked.get("lens"))) ?? state.lens;
    state.word = asked.get("word") ?? "";
    if (asked.has("show")) for (const name of ["words", "colour", "grid"]) state[name] = asked.get("show").split(",").includes(name);
    const image = images[state.image];
    const token = asked.has("patch") ? image.tokenAt.get(asked.get("patch")) : image.positions.indexOf(Number(asked.get("position") ?? NaN));
    state.view = 0;
    state.token = token >= 0 ? token : telling();
    follow();
    state.hover = -1;
  }

  function writeAddress() {
    const image = images[state.image];
    const parts = [["image", image.name], ["layer", layers[state.layer]], ["lens", lenses[state.lens]?.name]];
    if (state.token >= 0) parts.push(image.rows[state.token] < 0 ? ["position", image.positions[state.token]] : ["patch", placeOf(state.token)]);
    if (state.word) parts.push(["word", state.word]);
    parts.push(["show", ["words", "colour", "grid"].filter((name) => state[name]).join() || "none"]);
    if (images.length === 1) parts.shift();
    // Commas may stand in a fragment and read better as they are.
    const hash = "#" + parts.map((part) => part.map((text) => encodeURIComponent(text).replaceAll("%2C", ",")).join("=")).join("&");
    try { history.replaceState(null, "", hash); } catch { /* a page inside a notebook has no address of its own */ }
  }

  const placeOf = (token) => placeIn(images[state.image], token);
  const shownTokens = () => images[state.image].views[state.view]?.tokens ?? [];

  /** Show the view that the pinned token lies in. */
  function follow() {
    const image = images[state.image], view = state.token >= 0 && image.rows[state.token] >= 0 ? viewOf(image, state.token) : -1;
    state.view = view >= 0 ? view : Math.min(state.view, Math.max(0, image.views.length - 1));
  }

  /** A place in words for people. */
  function named(image, token) {
    if (image.rows[token] >= 0) {
      const place = `row ${image.rows[token]}, column ${image.columns[token]}`;
      const view = image.views[viewOf(image, token)];
      if (view.tiles.length > 1) return `tile ${image.tiles[token]}, ${place}`;
      return image.views.length > 1 ? `${view.name.toLowerCase()}, ${place}` : place;
    }
    if (image.seconds && Number.isFinite(image.seconds[2 * token])) return `${image.seconds[2 * token].toFixed(2)} to ${image.seconds[2 * token + 1].toFixed(2)} s`;
    const kind = doc.kinds[image.kinds[token]];
    return `${{ text: "text token at ", special: "special token at ", separator: "separator at ", answer: "answer at ", query: "visual token at ", filler: "filler at " }[kind] ?? ""}position ${image.positions[token]}`;
  }
  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  /** A token worth showing first: the one whose best candidate fits best; one without a measure before one without a word. */
  function telling() {
    const score = (best) => (!best ? -Infinity : Number.isFinite(best.value) ? best.value : -Number.MAX_VALUE);
    const { boxes, height, width, positions } = images[state.image];
    const inside = (token) => { // not in what the processor padded
      const y = (boxes[4 * token] + boxes[4 * token + 2]) / 2, x = (boxes[4 * token + 1] + boxes[4 * token + 3]) / 2;
      return y >= 0 && x >= 0 && y < height && x < width;
    };
    const all = positions.map((_, token) => token), { kinds } = images[state.image];
    const seen = all.filter((token) => ["patch", "query", "audio"].includes(doc.kinds[kinds[token]]));
    const tokens = [shownTokens().filter(inside), seen, all].find((some) => some.length) ?? [];
    const scores = tokens.map((token) => score(candidates(state.lens, state.layer, token)[0]));
    return scores.length ? tokens[scores.indexOf(Math.max(...scores))] : -1;
  }

  // ---------------------------------------------------------------- the search

  /** Which entries say the query: the word itself, or all that begin so when it ends in a star and is no word itself. */
  function matcher(query) {
    const text = query.trim().toLowerCase();
    if (!text) return null;
    const stem = text.length > 1 && text.endsWith("*") && !lowered.includes(text) ? text.slice(0, -1) : null;
    const hits = lowered.map((word) => (stem === null ? word === text : word.startsWith(stem)));
    return hits.some(Boolean) ? (id) => hits[entries.word[id]] : () => false;
  }

  /** Tokens of an image that say the word, one set per layer. */
  function saying(match, lens, image) {
    const block = blocks.get(`${image} ${lens}`);
    const count = images[image].positions.length;
    return layers.map((_, layer) => {
      const said = new Set();
      if (block) for (let token = 0; token < count; token++) {
        const start = (layer * count + token) * block.k;
        for (let i = start; i < start + block.k && block.ids[i] !== block.absent; i++)
          if (match(block.ids[i])) { said.add(token); break; }
      }
      return said;
    });
  }

  let search = { key: null };
  function runSearch() {
    const key = `${state.word}\n${state.image}`;
    if (search.key === key) return;
    const match = matcher(state.word);
    search = { key, match, perLens: match && lenses.map((_, lens) => saying(match, lens, state.image)), elsewhere: new Map() };
  }
  const lit = () => (search.match ? search.perLens[state.lens][state.layer] : null);

  function countIn(image) {
    const key = `${image} ${state.lens}`;
    if (!search.elsewhere.has(key)) search.elsewhere.set(key, saying(search.match, state.lens, image));
    return search.elsewhere.get(key)[state.layer].size;
  }

  /** The words that most patches have first at this layer. */
  function mostSaid(limit, accepts = () => true) {
    const counts = new Map();
    images[state.image].positions.forEach((_, token) => {
      const best = candidates(state.lens, state.layer, token)[0];
      const word = best?.word.toLowerCase();
      if (word && accepts(word)) counts.set(word, (counts.get(word) ?? 0) + 1);
    });
    return [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, limit);
  }

  // ---------------------------------------------------------------- elements

  function element(tag, options = {}, ...children) {
    const made = document.createElement(tag);
    const { className, text, lens, ...rest } = options;
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    if (lens !== undefined) made.dataset.lens = lens;
    for (const [name, value] of Object.entries(rest)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }
  // Words of right-to-left scripts must not reorder what stands beside them.
  const isolated = (text, className) => element("bdi", { className, text });

  function sentenceOf(candidate) {
    // Offsets count characters as Python does; a JavaScript string counts UTF-16 units.
    const characters = Array.from(candidate.sentence);
    const cut = (from, to) => characters.slice(from, to).join("");
    const { start, end, prefixEnd } = candidate;
    const read = prefixEnd < 0 ? characters.length : prefixEnd;
    const paragraph = element("p", { className: "sentence", dir: "auto" });
    if (start < 0) {
      paragraph.append(cut(0, read));
    } else {
      const split = Math.min(Math.max(read, start), end);
      paragraph.append(cut(0, start), element("mark", {}, cut(start, split), ...(split < end ? [element("span", { className: "unread", text: cut(split, end) })] : [])));
      if (read > end) paragraph.append(cut(end, read));
    }
    const rest = cut(start < 0 ? read : Math.max(read, end));
    if (rest) paragraph.append(element("span", { className: "unread", text: rest, title: "The model had not read this yet" }));
    return paragraph;
  }

  function card(candidate, scale, said) {
    const plain = candidate.token.replace(/^[▁Ġ\s]+/, "");
    const head = element("header", {}, isolated(candidate.word, "word"));
    if (![plain.toLowerCase(), candidate.token].includes(candidate.word.toLowerCase())) head.append(element("code", { text: candidate.token, title: "The token that was compared" }));
    if (candidate.contextLayer !== null) head.append(element("span", { className: "badge", text: `layer ${candidate.contextLayer}`, title: "The layer of the text that lies nearest" }));
    head.append(element("span", { className: "value", text: numeral(candidate.value, candidate.kind), title: KINDS[candidate.kind] ?? "Not measured" }));
    const meter = element("i");
    meter.style.width = `${(4 + 96 * share(candidate.value, scale)).toFixed(1)}%`;
    const made = element("li", { className: said ? "card said" : "card" }, head, element("div", { className: "meter" }, meter));
    if (candidate.sentence !== null) made.append(sentenceOf(candidate));
    return made;
  }

  // ---------------------------------------------------------------- drawing

  const photo = byId("photo"), overlay = byId("overlay"), stage = byId("stage");

  function rampColour(at, alpha) {
    const place = at * (RAMP.length - 1), low = Math.min(RAMP.length - 2, Math.floor(place)), part = place - low;
    return `rgb(${RAMP[low].map((value, i) => Math.round(value + (RAMP[low + 1][i] - value) * part)).join(" ")} / ${alpha})`;
  }

  /** Draw grid, colours, words, search hits and the chosen patch over a picture of this size. */
  function drawOverlay(context, width, height, unit) {
    const image = images[state.image];
    const scaleX = width / image.width, scaleY = height / image.height;
    const box = (token) => {
      const { boxes } = image, at = token * 4;
      return { x: boxes[at + 1] * scaleX, y: boxes[at] * scaleY, w: (boxes[at + 3] - boxes[at + 1]) * scaleX, h: (boxes[at + 2] - boxes[at]) * scaleY };
    };
    const patches = shownTokens();
    if (!patches.length) return;
    const scale = range(state.lens, "best");
    const hits = lit();

    const [top, left, bottom, right] = image.views[state.view].region;
    context.fillStyle = "rgb(0 0 0 / .5)"; // what a centre crop left out, the model never saw
    context.beginPath();
    context.rect(0, 0, width, height);
    context.rect(left * scaleX, top * scaleY, (right - left) * scaleX, (bottom - top) * scaleY);
    context.fill("evenodd");

    for (const token of patches) {
      const { x, y, w, h } = box(token);
      const best = state.colour ? candidates(state.lens, state.layer, token)[0] : null;
      context.fillStyle = best ? rampColour(share(best.value, scale), hits ? 0.35 : 0.66) : state.words && !hits ? "rgb(10 14 24 / .28)" : "transparent";
      context.fillRect(x, y, w, h);
      if (hits && !hits.has(token)) {
        context.fillStyle = "rgb(10 14 24 / .62)";
        context.fillRect(x, y, w, h);
      }
    }
    if (state.grid) {
      context.lineWidth = unit;
      context.strokeStyle = "rgb(255 255 255 / .34)";
      context.beginPath();
      for (const token of patches) {
        const { x, y, w, h } = box(token);
        context.rect(x, y, w, h);
      }
      context.stroke();
    }
    if (hits) {
      context.lineWidth = 2 * unit;
      context.strokeStyle = "#ffd84d";
      for (const token of hits) if (patches.includes(token)) {
        const { x, y, w, h } = box(token);
        context.strokeRect(x + unit, y + unit, w - 2 * unit, h - 2 * unit);
      }
    }
    if (state.words) drawWords(context, patches, box, unit, hits);
    for (const [token, colour, halo] of [[state.token, "#f4391c", "#fff"], [state.hover, "#fff", "rgb(0 0 0 / .6)"]]) {
      if (token < 0 || !patches.includes(token)) continue;
      const { x, y, w, h } = box(token);
      context.lineWidth = 5.5 * unit;
      context.strokeStyle = halo;
      context.strokeRect(x, y, w, h);
      context.lineWidth = 2.5 * unit;
      context.strokeStyle = colour;
      context.strokeRect(x, y, w, h);
    }
  }

  /** Each patch's best word, as large as fits its patch; none where even small letters do not fit. */
  function drawWords(context, patches, box, unit, hits) {
    const family = getComputedStyle(document.body).fontFamily;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    for (const token of patches) {
      if (hits && !hits.has(token)) continue;
      const said = candidates(state.lens, state.layer, token);
      const shown = hits ? said.find((candidate) => search.match(candidate.id)) : said[0];
      if (!shown) continue;
      const { x, y, w, h } = box(token);
      const most = Math.min(15 * unit, h * 0.42), least = 6.5 * unit;
      context.font = `600 ${most}px ${family}`;
      const size = Math.min(most, (most * (w - 3 * unit)) / context.measureText(shown.word).width);
      if (size < least || most < least) continue;
      context.font = `600 ${size}px ${family}`;
      context.lineWidth = Math.max(2 * unit, size * 0.24);
      context.strokeStyle = "rgb(8 10 18 / .82)";
      context.strokeText(shown.word, x + w / 2, y + h / 2);
      context.fillStyle = "#fff";
      context.fillText(shown.word, x + w / 2, y + h / 2);
    }
  }

  function drawStage() {
    const image = images[state.image];
    stage.hidden = !image.uri;
    byId("main").classList.toggle("unseen", !image.uri);
    if (!image.uri) return;
    const size = stage.getBoundingClientRect(), ratio = devicePixelRatio || 1;
    const width = Math.round(size.width * ratio), height = Math.round((size.width * ratio * image.height) / image.width);
    if (!width) return;
    if (overlay.width !== width || overlay.height !== height) Object.assign(overlay, { width, height });
    const context = overlay.getContext("2d");
    context.clearRect(0, 0, width, height);
    drawOverlay(context, width, height, ratio);
  }

  function drawCrop() {
    const image = images[state.image], token = shownToken(), crop = byId("crop");
    const context = crop.getContext("2d");
    context.clearRect(0, 0, crop.width, crop.height);
    crop.hidden = !image.uri || token < 0 || image.rows[token] < 0;
    if (crop.hidden || !photo.naturalWidth) return;
    const [top, left, bottom, right] = image.boxes.subarray(token * 4, token * 4 + 4);
    // A patch alone says little; half a patch around it shows what it is part of.
    const x = photo.naturalWidth / image.width, y = photo.naturalHeight / image.height, w = right - left, h = bottom - top;
    context.drawImage(photo, (left - w / 2) * x, (top - h / 2) * y, 2 * w * x, 2 * h * y, 0, 0, crop.width, crop.height);
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    context.strokeRect(crop.width / 4, crop.height / 4, crop.width / 2, crop.height / 2);
  }

  function drawImages() {
    if (images.length < 2) return;
    byId("images").replaceChildren(...images.map((image, i) => {
      const button = element("button", { type: "button", "aria-pressed": String(i === state.image), title: image.name, onclick: () => change({ image: i }) });
      button.append(image.uri ? element("img", { src: image.uri, alt: image.name }) : isolated(image.name, "name"));
      const said = search.match ? countIn(i) : 0;
      if (said) button.append(element("span", { className: "count", text: said }));
      return button;
    }));
  }

  function drawBar() {
    byId("lenses").replaceChildren(...lenses.map((lens, i) => element("button", {
      type: "button", text: lens.title, lens: lens.name, "aria-pressed": String(i === state.lens), onclick: () => change({ lens: i }),
    })));
    const { views } = images[state.image];
    byId("views").hidden = views.length < 2;
    byId("views").replaceChildren(...(views.length < 2 ? [] : views.map((view, i) => element("button", {
      type: "button", text: views.filter(({ name }) => name === view.name).length > 1 ? `${view.name} ${i + 1}` : view.name, "aria-pressed": String(i === state.view),
      title: `${view.tiles.length} × ${view.rows} × ${view.columns} visual tokens`, onclick: () => change({ view: i }),
    }))));
    for (const name of ["words", "colour", "grid", "enlarge"]) byId(name).setAttribute("aria-pressed", String(state[name]));
    byId("main").classList.toggle("enlarged", state.enlarge);
    const { low, high } = range(state.lens, "best");
    const kind = blocks.get(`${state.image} ${state.lens}`)?.kind;
    byId("scale").hidden = !state.colour || !kind;
    byId("scale-low").textContent = numeral(low, kind);
    byId("scale-high").textContent = numeral(high, kind);
    byId("scale-note").textContent = `${kind} of the best word, this layer`;
  }

  function drawLayer() {
    const box = byId("layer-box"), slider = byId("layer"), n = layers.length;
    box.style.setProperty("--n", n);
    box.hidden = n < 2 && !search.match;
    slider.max = n - 1;
    slider.value = state.layer;
    slider.setAttribute("aria-valuetext", `layer ${layers[state.layer]}`);
    byId("layer-name").textContent = layers[state.layer];
    byId("layer-note").textContent = layers[state.layer] === 0 ? "what enters the first block" : `output of block ${layers[state.layer]}`;
    const every = Math.ceil(n / 14);
    byId("ticks").replaceChildren(...layers.map((layer, i) => element("span", { text: i % every === 0 || i === n - 1 && (n - 1) % every > every / 2 ? layer : "" })));
    byId("strips").replaceChildren(...(search.match ? search.perLens.map((perLayer, lens) => {
      const most = Math.max(...perLayer.map((said) => said.size));
      const strip = element("div", { className: lens === state.lens ? "strip chosen" : "strip", lens: lenses[lens].name });
      strip.append(...perLayer.map((said, layer) => {
        const bar = element("i");
        bar.style.height = said.size ? `${Math.max(8, (62 * said.size) / most)}%` : "0";
        const button = element("button", { type: "button", tabindex: "-1", title: `${lenses[lens].title}, layer ${layers[layer]}: ${said.size}`, onclick: () => change({ lens, layer }) }, bar);
        if (layer === state.layer && lens === state.lens) button.className = "here";
        return button;
      }), element("span", { text: most ? `${lenses[lens].title}, at most ${most}` : `${lenses[lens].title}: never` }));
      return strip;
    }) : []));
  }

  function drawSearch() {
    const query = byId("query");
    if (document.activeElement !== query) query.value = state.word;
    const found = byId("found"), lens = lenses[state.lens]?.title ?? "";
    const chip = ([word, count]) => element("button", { type: "button", onclick: () => change({ word }) }, isolated(word), element("small", { text: count }));
    let chips = [];
    if (!search.match) {
      chips = mostSaid(8);
      found.textContent = chips.length ? `Said first by most patches at this layer, ${lens}:` : "";
    } else {
      const perLayer = search.perLens[state.lens], here = perLayer[state.layer].size, total = perLayer.reduce((sum, said) => sum + said.size, 0);
      const where = perLayer.filter((said) => said.size).length;
      const noun = `${images[state.image].views.length ? (here === 1 ? "patch" : "patches") : here === 1 ? "token" : "tokens"} ${here === 1 ? "has" : "have"}`;
      const k = blocks.get(`${state.image} ${state.lens}`)?.k ?? 0;
      found.textContent = `${here} ${noun} “${state.word}” among the best ${k} at layer ${layers[state.layer]}; ${total ? `some in ${where} of ${layers.length} layers` : "none at any layer"} (${lens}).`;
      if (!total) {
        const text = state.word.trim().toLowerCase();
        chips = [...new Set(lowered.filter((word) => word.startsWith(text) && word !== text))].slice(0, 8).map((word) => [word, ""]);
      }
    }
    byId("suggestions").replaceChildren(...chips.map(chip));
  }

  function drawTextTokens() {
    const image = images[state.image], hits = lit(), box = byId("text-tokens");
    box.replaceChildren(...image.positions.flatMap((position, token) => {
      if (image.rows[token] >= 0) return [];
      const best = candidates(state.lens, state.layer, token)[0];
      const when = image.seconds && Number.isFinite(image.seconds[2 * token]) ? image.seconds[2 * token].toFixed(2) : position;
      const button = element("button", { type: "button", title: named(image, token), onclick: () => change({ token, hover: -1 }) }, element("small", { text: when }), isolated(best ? best.word : "–"));
      if (hits?.has(token)) button.classList.add("said");
      if (token === state.token) button.classList.add("here");
      return [button];
    }));
  }

  function drawReading() {
    const image = images[state.image], token = shownToken();
    const heading = byId("place");
    if (token < 0) {
      heading.textContent = "Nothing was read here";
    } else {
      const text = capital(named(image, token));
      const about = [`layer ${layers[state.layer]}`, images.length > 1 ? image.name : "", state.hover >= 0 && state.hover !== state.token ? "click to keep" : ""];
      heading.replaceChildren(text, element("small", { text: about.filter(Boolean).join(" · ") }));
    }
    const columns = byId("columns");
    columns.className = `columns ${["", "one", "two", "three"][lenses.length] ?? ""}`;
    columns.replaceChildren(...lenses.map((lens, i) => {
      const said = candidates(i), scale = range(i, "all");
      const block = blocks.get(`${state.image} ${i}`), unit = block?.kind;
      const about = unit ? `Bars run from the lowest to the highest ${unit} in this picture at this layer` : "";
      const column = element("section", { className: i === state.lens ? "column chosen" : "column", lens: lens.name, "aria-label": lens.title },
        element("h3", {}, lens.title, element("small", { text: block ? unit ?? "not measured" : "", title: about })),
        element("p", { className: "what", text: ABOUT[lens.name] ?? "" }));
      if (said.length) column.append(element("ol", {}, ...said.map((candidate) => card(candidate, scale, search.match?.(candidate.id)))));
      else column.append(element("p", { className: "none", text: "Not read here." }));
      return column;
    }));
    drawCrop();
    drawThrough(token);
  }

  function drawThrough(token) {
    const table = byId("through");
    const head = element("thead", {}, element("tr", {}, element("th", { className: "number", text: "layer" }), ...lenses.map((lens) => element("th", { text: lens.title }))));
    const body = element("tbody", {}, ...layers.map((layer, at) => {
      const button = element("button", { type: "button", text: layer, "aria-label": `layer ${layer}` });
      const row = element("tr", { onclick: () => change({ layer: at }) }, element("th", { scope: "row" }, button));
      if (at === state.layer) row.className = "here";
      row.append(...lenses.map((_, lens) => {
        const best = candidates(lens, at, token)[0];
        if (!best) return element("td", { text: "–" });
        return element("td", {}, isolated(best.word, search.match?.(best.id) ? "said" : ""), element("small", { text: numeral(best.value, best.kind) }));
      }));
      return row;
    }));
    table.replaceChildren(head, body);
  }

  function announce() {
    const token = state.token, image = images[state.image];
    if (token < 0) return;
    const place = named(image, token);
    const said = lenses.map((lens, i) => `${lens.title}: ${candidates(i).slice(0, 3).map((candidate) => candidate.word).join(", ") || "nothing"}`);
    byId("announce").textContent = `Layer ${layers[state.layer]}, ${place}. ${said.join(". ")}.`;
  }

  // ---------------------------------------------------------------- changes

  function change(next) {
    const { image, layer, view, token } = state, place = state.token >= 0 && state.token in images[image].rows ? placeOf(state.token) : "";
    Object.assign(state, next);
    state.layer = Math.min(layers.length - 1, Math.max(0, state.layer));
    if (state.image !== image) {
      showPhoto();
      state.hover = -1;
      state.view = 0;
      state.token = images[state.image].tokenAt.get(place) ?? telling();
    } else if (state.view !== view) {
      state.hover = -1;
      state.token = telling();
    }
    if (state.token !== token || state.image !== image) follow();
    keepingFocus(() => redraw(Object.keys(next).join() === "hover"));
    if (state.layer !== layer) byId("through").querySelector(".here button")?.scrollIntoView?.({ block: "nearest", inline: "nearest", behavior: "instant" });
  }

  function redraw(onlyHover) {
    if (!onlyHover) {
      runSearch();
      drawImages();
      drawBar();
      drawLayer();
      drawSearch();
      drawTextTokens();
      writeAddress();
      announce();
    }
    drawStage();
    drawReading();
  }

  /** Draw; where that replaces the focused button, the one that stands in its place has the focus. */
  function keepingFocus(draw) {
    const held = document.activeElement, box = held?.closest("#lenses, #views, #images, #text-tokens, #strips, #through");
    const buttons = () => [...box.querySelectorAll("button")];
    const at = box ? buttons().indexOf(held) : -1;
    draw();
    if (at >= 0) buttons()[at]?.focus({ preventScroll: true });
  }

  function showPhoto() {
    const image = images[state.image];
    if (image.uri) photo.src = image.uri;
    stage.style.setProperty("--ratio", image.height ? image.width / image.height : 1);
    photo.alt = image.name;
  }

  function tokenUnder(event) {
    const image = images[state.image], size = stage.getBoundingClientRect();
    return tokenOver(((event.clientY - size.top) / size.height) * image.height, ((event.clientX - size.left) / size.width) * image.width);
  }

  /** The token of the shown view over a point of the original image. */
  function tokenOver(y, x) {
    const { boxes } = images[state.image];
    return shownTokens().find((token) => y >= boxes[4 * token] && x >= boxes[4 * token + 1] && y < boxes[4 * token + 2] && x < boxes[4 * token + 3]) ?? -1;
  }

  /** Move the pinned patch; stays where it is at the edge. From outside the picture the way leads to its first patch. */
  function step(down, right) {
    const image = images[state.image];
    if (state.token < 0 || image.rows[state.token] < 0) {
      if (shownTokens().length) change({ token: shownTokens()[0], hover: -1 });
      return;
    }
    const [top, left, bottom, side] = image.boxes.subarray(state.token * 4, state.token * 4 + 4);
    const height = bottom - top, width = side - left;
    // From the middle, so that a step also leads into the next tile, whose patches may be larger or smaller.
    const token = tokenOver(top + height / 2 + down * (height / 2 + height / 8), left + width / 2 + right * (width / 2 + width / 8));
    if (token >= 0) change({ token, hover: -1 });
  }

  stage.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const token = tokenUnder(event);
    if (token !== state.hover) change({ hover: token });
  });
  stage.addEventListener("pointerleave", () => { if (state.hover >= 0) change({ hover: -1 }); });
  stage.addEventListener("click", (event) => {
    const token = tokenUnder(event);
    if (token >= 0) change({ token, hover: -1 });
  });
  stage.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    step(...move);
  });

  byId("layer").addEventListener("input", (event) => change({ layer: Number(event.target.value) }));
  byId("query").addEventListener("input", (event) => change({ word: event.target.value }));
  byId("query").addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.target.blur(); change({ word: "" }); }
  });
  byId("search").addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["words", "colour", "grid", "enlarge"]) byId(name).addEventListener("click", () => change({ [name]: !state[name] }));

  byId("save").addEventListener("click", () => {
    const image = images[state.image];
    if (!image.uri) return;
    const width = Math.max(1600, photo.naturalWidth), height = Math.round((width * image.height) / image.width);
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(photo, 0, 0, width, height);
    drawOverlay(context, width, height, width / stage.getBoundingClientRect().width);
    canvas.toBlob((blob) => {
      const link = element("a", { href: URL.createObjectURL(blob), download: `${image.name}-layer${layers[state.layer]}-${lenses[state.lens].name}.png` });
      link.click();
      URL.revokeObjectURL(link.href);
    });
  });

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("input[type=search]")) return;
    const onSlider = event.target === byId("layer");
    const actions = {
      ArrowLeft: () => change({ layer: state.layer - 1 }), ArrowRight: () => change({ layer: state.layer + 1 }),
      "[": () => change({ layer: state.layer - 1 }), "]": () => change({ layer: state.layer + 1 }),
      v: () => images[state.image].views.length > 1 && change({ view: (state.view + 1) % images[state.image].views.length }),
      w: () => change({ words: !state.words }), c: () => change({ colour: !state.colour }), g: () => change({ grid: !state.grid }), e: () => change({ enlarge: !state.enlarge }),
      "/": () => byId("query").focus(), Escape: () => change({ word: "" }),
    };
    const number = Number(event.key) - 1;
    const action = number in lenses && event.key.trim() ? () => change({ lens: number }) : Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (!action || (onSlider && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    action();
  });

  addEventListener("hashchange", () => { const image = state.image; readAddress(); if (state.image !== image) showPhoto(); change({}); });

  // ---------------------------------------------------------------- provenance and start

  function drawProvenance() {
    const records = doc.provenance, found = new Map();
    const note = (name, value) => {
      if (value === undefined || value === null || value === "") return;
      if (!found.has(name)) found.set(name, new Set());
      found.get(name).add(String(value));
    };
    for (const record of records) {
      const states = record.states ?? {};
      note("model", states.revision ? `${states.model} @ ${states.revision}` : states.model);
      note("bank", record.bank && `${record.bank} (${Number(record.bank_rows).toLocaleString("en")} contexts, layers ${(record.contextual_layers ?? []).join(", ")})`);
      note("prompt", record.prompt);
      for (const [name, version] of Object.entries(states.versions ?? {})) note(name, version);
      note("read", (states.created ?? "").slice(0, 10));
    }
    byId("provenance").replaceChildren(...[...found].map(([name, values]) => element("div", {}, element("dt", { text: name }), element("dd", { text: [...values].join("; ") }))));
    byId("provenance-full").textContent = JSON.stringify(records, null, 2);
    const model = [...(found.get("model") ?? [])].join("; ");
    byId("title").textContent = doc.title;
    byId("subtitle").textContent = [model, `${lenses.map((lens) => lens.title).join(", ")} · ${layers.length === 1 ? `layer ${layers[0]}` : `${layers.length} layers`}`].filter(Boolean).join(" · ");
  }

  if (!images.length || !lenses.length) {
    byId("title").textContent = "There are no readings to show";
    byId("main").hidden = true;
  } else {
    readAddress();
    showPhoto();
    drawProvenance();
    byId("legend").hidden = !sentences.length;
    photo.addEventListener("load", () => { drawStage(); drawCrop(); });
    new ResizeObserver(drawStage).observe(stage);
    change({});
  }
  document.documentElement.dataset.ready = "true";
})();
