"use strict";

// Asks people what patchlens.views.annotate hands out and gives it back what they say. Every text in a question came from
// a corpus, a model or a person, so it only ever becomes textContent. An answer is a list of verdicts or "skipped".

(() => {
  const byId = (id) => document.getElementById(id);
  const VERDICTS = ["concrete", "abstract", "global", "unrelated"];
  const PATIENCE = 10_000; // ms until a request counts as lost
  const LONGEST_WAIT = 8_000; // ms between two tries

  const state = {
    name: "", rubrics: {}, questions: [], at: 0, row: 0, // at: which question, or their number for the end; row likewise
    review: false, // going through those that were skipped
    stored: new Map(), // question's id → the answer that the server is known to have
    waiting: new Map(), // → the answer that it is to have, and how long it took
    drafts: new Map(), // → verdicts given so far, null where there is none
    spent: new Map(), // → ms that it was in sight
  };
  const question = () => state.questions[state.at];
  const answered = (id) => state.waiting.get(id)?.answer ?? state.stored.get(id);
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

  function element(tag, options = {}, ...children) {
    const made = document.createElement(tag);
    const { className, text, ...rest } = options;
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(rest)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // ---------------------------------------------------------------- what must outlive a reload

  const shelf = () => `patchlens ${state.name}`;

  function remember() {
    const kept = { waiting: [...state.waiting], drafts: [...state.drafts] };
    try { sessionStorage.setItem(shelf(), JSON.stringify(kept)); } catch { /* without storage a reload forgets them */ }
  }

  function recall() {
    let kept = null;
    try { kept = JSON.parse(sessionStorage.getItem(shelf())); } catch { /* as above */ }
    const known = new Set(state.questions.map(({ id }) => id));
    state.waiting = new Map((kept?.waiting ?? []).filter(([id]) => known.has(id)));
    state.drafts = new Map((kept?.drafts ?? []).filter(([id]) => known.has(id)));
  }

  // ---------------------------------------------------------------- the server

  /** What the server says; status 0 if nothing comes. */
  async function ask(path, options = {}) {
    const address = `${path}?annotator=${encodeURIComponent(state.name)}`;
    try {
      const reply = await fetch(address, { ...options, signal: AbortSignal.timeout(PATIENCE) });
      return { status: reply.status, said: await reply.json() };
    } catch {
      return { status: 0, said: { error: `The server at ${location.host} does not answer. If it has ended, start it again at the same port.` } };
    }
  }

  let sending = false, wake = () => {};

  /** Hand over what waits, in order, for as long as it takes. */
  async function send() {
    wake(); // whoever pauses between two tries
    if (sending) return;
    sending = true;
    const tried = new Map(); // what the server may have got without our knowing
    for (let pause = 500; state.waiting.size;) {
      const [id, given] = state.waiting.entries().next().value;
      drawSaved("saving");
      const { status, said } = await ask("answers", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ question: id, answer: given.answer, before: state.stored.get(id) ?? null, seconds: given.seconds }),
      });
      if (status === 200) {
        state.stored.set(id, given.answer);
        if (state.waiting.get(id) === given) state.waiting.delete(id);
        pause = 500;
      } else if (status === 409 && tried.has(id) && same(said.answer, tried.get(id))) {
        state.stored.set(id, said.answer); // it was ours
      } else if (status === 409) {
        yieldTo(id, said.answer);
      } else if (status === 0 || status >= 500) {
        tried.set(id, given.answer);
        drawSaved("waiting", said.error);
        await new Promise((resolve) => { wake = resolve; setTimeout(resolve, pause); });
        pause = Math.min(2 * pause, LONGEST_WAIT);
      } else {
        drawSaved("refused", said.error);
        break;
      }
      remember();
      drawProgress();
    }
    sending = false;
    if (!state.waiting.size) drawSaved("saved");
  }

  /** Somebody answered under this name elsewhere, in another tab perhaps. Theirs stands until it is changed knowingly. */
  function yieldTo(id, answer) {
    state.waiting.delete(id);
    state.drafts.delete(id);
    if (answer === null) state.stored.delete(id);
    else state.stored.set(id, answer);
    const number = state.questions.findIndex((other) => other.id === id) + 1;
    if (state.at === number - 1) show(state.at);
    say(`Question ${number} was answered in another tab meanwhile, and that answer was kept. Go back to it to change it.`);
  }

  // ---------------------------------------------------------------- from question to question

  async function enter(name) {
    state.name = name;
    const { status, said } = await ask("questions");
    if (status !== 200) {
      byId("sign-note").textContent = said.error;
      return signIn(name);
    }
    Object.assign(state, { name: said.annotator, rubrics: said.rubrics, questions: said.questions, stored: new Map(Object.entries(said.answers)) });
    history.replaceState(null, "", `?annotator=${encodeURIComponent(state.name)}`);
    recall();
    byId("who").textContent = state.name;
    byId("rubric").textContent = state.rubrics[state.questions[0].rubric]; // for those who come back at the end
    byId("person").hidden = byId("line").hidden = false;
    drawSaved("saved");
    show(firstOpen());
    send();
  }

  function signIn(name) {
    only("start");
    byId("name").value = name;
    byId("name").focus();
  }

  function firstOpen() {
    const found = state.questions.findIndex(({ id }) => answered(id) === undefined);
    return found < 0 ? state.questions.length : found;
  }

  function verdicts() {
    const { id, candidates } = question(), answer = answered(id);
    return state.drafts.get(id) ?? (Array.isArray(answer) ? answer : candidates.map(() => null));
  }

  function onward() {
    const { length } = state.questions;
    let next = state.at + 1;
    if (state.review) while (next < length && answered(state.questions[next].id) !== "skipped") next++;
    else if (next === length) next = firstOpen(); // the end, if none was left open
    show(next);
  }

  function keep(answer) {
    const { id } = question();
    state.drafts.delete(id);
    if (!same(answer, answered(id))) {
      stopClock();
      state.waiting.delete(id); // and to the end of those that wait
      state.waiting.set(id, { answer, seconds: Math.round(state.spent.get(id) ?? 0) / 1000 });
    }
    remember();
    onward();
    send();
  }

  function confirm() {
    const given = verdicts(), missing = given.indexOf(null);
    if (missing >= 0) {
      const left = given.filter((verdict) => verdict === null).length;
      focusRow(missing);
      return say(`${plural(left, "word")} still without a verdict.`);
    }
    if (!seen()) return say("The pictures are not here yet. Nothing is lost; please wait until you see them.");
    keep(given);
  }

  function skip() {
    if (!Array.isArray(answered(question().id))) return keep("skipped");
    state.drafts.delete(question().id);
    remember();
    onward();
    say("That question keeps the answer that you gave before.");
  }

  function back() {
    state.review = false;
    if (state.at === 0) return say("This is the first question.");
    show(state.at - 1);
  }

  function reviewSkipped() {
    const found = state.questions.findIndex(({ id }) => answered(id) === "skipped");
    if (found < 0) return;
    state.review = true;
    show(found);
  }

  function give(row, verdict) {
    const { id, candidates } = question(), given = [...verdicts()];
    if (row >= candidates.length) return say("Every word has its verdict. Enter keeps them; ↑ leads back to the words.");
    given[row] = verdict;
    state.drafts.set(id, given);
    remember();
    say("");
    drawVerdicts();
  }

  // ---------------------------------------------------------------- time in sight

  let since = null;

  function startClock() {
    stopClock();
    since = { id: question().id, start: performance.now() };
  }

  function stopClock() {
    if (since) state.spent.set(since.id, (state.spent.get(since.id) ?? 0) + performance.now() - since.start);
    since = null;
  }

  // ---------------------------------------------------------------- drawing

  function only(id) {
    for (const each of ["start", "question", "end"]) byId(each).hidden = each !== id;
    document.documentElement.dataset.at = id;
  }

  function say(text) { byId("note").textContent = text; }

  function show(at) {
    stopClock();
    Object.assign(state, { at, row: 0 });
    drawProgress();
    if (at >= state.questions.length) return drawEnd();
    const { id, candidates, rubric } = question();
    const inSentences = candidates.some(([before, , after]) => before || after);
    byId("ask").textContent = inSentences
      ? "How does each marked word, as its sentence means it, fit what is in the red frame?"
      : "How does each word fit what is in the red frame?";
    byId("rubric").textContent = state.rubrics[rubric];
    byId("candidates").replaceChildren(...candidates.map(candidateRow));
    byId("enlarge").replaceChildren(picture(id, "marked", "The whole picture, with a red frame around the part that is meant"));
    byId("crop").replaceChildren(picture(id, "crop", "The framed part alone"));
    only("question");
    scrollTo(0, 0);
    say(answered(id) === "skipped" ? "You skipped this question." : "");
    drawVerdicts();
    const open = verdicts().indexOf(null);
    focusRow(open < 0 ? 0 : open);
    startClock();
    for (const ahead of state.questions.slice(at + 1, at + 3)) for (const part of ["marked", "crop"]) new Image().src = address(ahead.id, part);
  }

  const address = (id, part) => `pictures/${id}/${part}.png`;

  /** A picture that is fetched until it comes. */
  function picture(id, part, alt) {
    const made = element("img", { alt, src: address(id, part) });
    let pause = 500;
    made.addEventListener("error", () => {
      pause = Math.min(2 * pause, LONGEST_WAIT);
      setTimeout(() => { if (made.isConnected) made.src = address(id, part); }, pause);
    });
    return made;
  }
  const seen = () => [...document.querySelectorAll(".pictures img")].every((image) => image.complete && image.naturalWidth);

  function candidateRow([before, word, after], row) {
    // Words of right-to-left scripts must not reorder what stands beside them.
    const text = before || after
      ? element("p", { className: "word sentence", dir: "auto" }, before, element("mark", {}, element("bdi", { text: word })), after)
      : element("p", { className: "word" }, element("bdi", { text: word }));
    text.id = `word-${row}`;
    const options = VERDICTS.map((verdict) => element("button", {
      type: "button", role: "radio", tabindex: "-1", id: `verdict-${row}-${verdict}`, text: verdict,
      onclick: () => { give(row, verdict); focusRow(row + 1); },
    }));
    return element("div", { className: "candidate", role: "radiogroup", tabindex: "0", "aria-labelledby": text.id, onfocusin: () => mark(row) },
      text, element("div", { className: "options", role: "presentation" }, ...options));
  }

  function drawVerdicts() {
    verdicts().forEach((given, row) => {
      const group = byId("candidates").children[row];
      if (given) group.setAttribute("aria-activedescendant", `verdict-${row}-${given}`);
      for (const verdict of VERDICTS) byId(`verdict-${row}-${verdict}`).setAttribute("aria-checked", String(verdict === given));
    });
  }

  function mark(row) {
    state.row = row;
    [...byId("candidates").children].forEach((group, i) => group.classList.toggle("here", i === row));
  }

  function focusRow(row) {
    const groups = byId("candidates").children;
    mark(Math.max(0, Math.min(row, groups.length)));
    (groups[state.row] ?? byId("next")).focus();
  }

  function drawProgress() {
    const total = state.questions.length, done = state.questions.filter(({ id }) => answered(id) !== undefined).length;
    byId("count").textContent = state.at < total ? `Question ${state.at + 1} of ${total}` : `${done} of ${total}`;
    const bar = byId("progress");
    bar.setAttribute("aria-valuemax", String(total));
    bar.setAttribute("aria-valuenow", String(done));
    bar.setAttribute("aria-valuetext", `${done} of ${total} done`);
    bar.title = `${done} of ${total} done`;
    bar.firstElementChild.style.width = `${(100 * done) / total}%`;
    if (!byId("end").hidden) drawEndText();
  }

  function drawSaved(kind, why = "") {
    const box = byId("saved"), count = plural(state.waiting.size, "answer");
    const text = {
      saving: box.dataset.state === "waiting" ? box.textContent : "Saving …",
      saved: "Saved",
      waiting: `Not saved yet: ${count}. Trying again until it works; keep this page open. ${why}`,
      refused: `Not saved: ${count}. ${why}`,
    }[kind];
    if (kind !== "saving" || box.dataset.state !== "waiting") box.dataset.state = kind; // a try is no reason to blink
    box.ariaLive = box.dataset.state === "waiting" || box.dataset.state === "refused" ? "assertive" : "off"; // "Saved" again and again is noise
    if (box.textContent !== text) box.textContent = text;
    if (!byId("end").hidden) drawEndText();
  }

  function drawEnd() {
    state.review = false;
    only("end");
    drawEndText();
    byId("end-title").focus();
  }

  function drawEndText() {
    const skipped = state.questions.filter(({ id }) => answered(id) === "skipped").length, left = state.waiting.size;
    const total = state.questions.length;
    byId("end-title").textContent = left ? "Nearly done" : "Done. Thank you!";
    byId("end-text").textContent = `${total - skipped} of ${plural(total, "question")} answered, ${skipped} skipped. ` + (left
      ? `${plural(left, "answer")} not saved yet: keep this page open.`
      : "Everything is saved; you can close this page.");
    byId("end-skipped").hidden = !skipped;
  }

  function openHelp() { byId("help").showModal(); }

  function openZoom() {
    byId("zoomed").replaceChildren(...[...document.querySelectorAll(".pictures img")].map((image) => image.cloneNode()));
    byId("zoom").showModal();
  }

  // ---------------------------------------------------------------- keys and buttons

  const turn = (step) => {
    const given = verdicts()[state.row], at = VERDICTS.indexOf(given);
    if (state.row >= question().candidates.length) return;
    give(state.row, VERDICTS[at < 0 ? (step > 0 ? 0 : 3) : (at + step + 4) % 4]);
  };
  const ASKING = { Enter: confirm, Backspace: back, s: skip, z: openZoom, "?": openHelp };
  const MOVING = { ArrowUp: () => focusRow(state.row - 1), ArrowDown: () => focusRow(state.row + 1), ArrowLeft: () => turn(-1), ArrowRight: () => turn(1) };
  VERDICTS.forEach((verdict, i) => {
    ASKING[verdict[0]] = ASKING[String(i + 1)] = () => { const { row } = state; give(row, verdict); focusRow(row + 1); };
  });
  const ENDING = { Backspace: () => show(state.questions.length - 1), s: reviewSkipped, "?": openHelp };
  const CLOSING = { help: "?", zoom: "z" };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const dialog = document.querySelector("dialog[open]");
    if (dialog) {
      if (key === CLOSING[dialog.id] && !event.repeat) { event.preventDefault(); dialog.close(); }
      return;
    }
    if (!byId("start").hidden) return;
    // Enter presses the button or follows the link that has the focus, unless it is a verdict.
    if (key === "Enter" && event.target.closest("button:not([role=radio]), a") && event.target !== byId("next")) return;
    const asking = !byId("question").hidden;
    const action = (asking ? ASKING[key] : ENDING[key]) ?? (asking ? MOVING[key] : undefined);
    if (!action) return;
    event.preventDefault();
    if (!event.repeat || key in MOVING) action(); // a key held down must not answer the next question
  });

  byId("sign").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("sign-note").textContent = "";
    enter(byId("name").value);
  });
  for (const [id, action] of Object.entries({
    "ask-help": openHelp, enlarge: openZoom, back, skip, next: confirm, "end-back": ENDING.Backspace, "end-skipped": reviewSkipped, zoomed: () => byId("zoom").close(),
  })) byId(id).addEventListener("click", action);
  for (const button of document.querySelectorAll(".close")) button.addEventListener("click", () => button.closest("dialog").close());
  byId("next").addEventListener("focus", () => mark(byId("candidates").children.length));
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stopClock();
    else if (!byId("question").hidden) startClock();
  });
  addEventListener("beforeunload", (event) => { if (state.waiting.size) event.preventDefault(); });

  const asked = new URLSearchParams(location.search).get("annotator") ?? document.body.dataset.annotator;
  if (asked) enter(asked);
  else signIn("");
})();
