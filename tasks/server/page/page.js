// Keeps a page of longtake true while it is looked at, and plays films that are being rendered.

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// The answer of the server, which may be out or started again for a while.
async function answered(url, options) {
  for (;; await wait(2000)) {
    const answer = await fetch(url, options).catch(() => null);
    if (answer && answer.status < 500) return answer;
  }
}

// Ask for the page again and replace its live part: the server has rendered it. Where a form was refused, the address
// is that of the form. Returns whether there still is such a page.
async function refresh(live) {
  const answer = await answered(live.dataset.page || location.href, { headers: { Accept: "text/html" } });
  if (answer.redirected) location.assign(answer.url); // the key is not accepted any more
  if (answer.status === 404) live.textContent = "This film was deleted.";
  if (!answer.ok || answer.redirected) return false;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  replace(live, page.querySelector("[data-live]"));
  const more = document.getElementById("more");
  if (more) replace(more, page.getElementById("more"));
  return true;
}

// Replace a part of the page, unless somebody is at it.
function replace(part, fresh) {
  if (!fresh || part.contains(document.activeElement) || isEdited(part)) return;
  const open = [...part.querySelectorAll("details[open]")].map((details) => details.id);
  part.innerHTML = fresh.innerHTML;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  watchJoins(part);
}

// Whether something was typed that is not sent yet.
const isEdited = (part) => [...part.querySelectorAll("input, textarea")].some((field) => field.value !== field.defaultValue);

function follow(live, log) {
  log?.replaceChildren(); // all events of a film are sent again
  const events = new EventSource((live || log).dataset.live || log.dataset.log);
  let due = null;
  const kinds = ["accepted", "queued", "loading", "step", "segment", "clip", "take", "chosen", "rewound", "attempt",
    "paused", "resumed", "retried", "appended", "replaced", "approved", "closed", "done", "failed", "cancelled"];
  for (const kind of kinds) {
    events.addEventListener(kind, (event) => {
      if (log) note(log, kind, JSON.parse(event.data));
      due = due || setTimeout(() => { due = null; refresh(live); }, 700);
    });
  }
  events.onerror = async () => {
    if (log && live.querySelector(":scope > :is(.done, .failed, .cancelled)")) events.close();
    else if (events.readyState === EventSource.CLOSED && await refresh(live)) { // something was out for a while
      await wait(2000);
      follow(live, log);
    }
  };
}

// What is known of an event, in words; workers: names by token.
function words(data, workers) {
  const parts = [];
  for (const [name, value] of Object.entries(data)) {
    if (value === null || name === "job" || name === "at" || name === "steps") continue;
    if (name === "step") parts.push(`step ${value} of ${data.steps}`);
    else if (name === "step_s") parts.push(`${value.toPrecision(2)} s per step`);
    else if (name === "worker") parts.push(`worker ${workers[value] || value}`);
    else if (name === "jobs_ahead") parts.push(`${value} jobs ahead`);
    else if (name === "segments") parts.push(`${value} segments`);
    else if (name === "title" || name === "reason" || name === "why") parts.push(value);
    else parts.push(`${name} ${value}`);
  }
  return parts.join(", ");
}

// "segment" is the kind of an event and one of its values: the kind says what became of it.
const SAYS = { segment: "rendered", clip: "can be played", step: "rendering", take: "take rendered", attempt: "attempt failed" };

function note(log, kind, data) {
  const line = document.createElement("li");
  const said = words(data, JSON.parse(log.dataset.workers));
  line.textContent = `${new Date(data.at * 1000).toLocaleTimeString()} ${SAYS[kind] || kind}${said ? ": " : ""}${said}`;
  if (kind === "step" && log.lastElementChild?.dataset.kind === "step") log.lastElementChild.remove();
  line.dataset.kind = kind;
  log.append(line);
}

// Figures of joins cost the server some work, so those are asked for that somebody sees.
const joins = new Map();
const inView = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
  if (isIntersecting) { inView.unobserve(target); showJoin(target); }
}));
const watchJoins = (part) => part.querySelectorAll("[data-join]").forEach((place) => inView.observe(place));

async function showJoin(place) {
  const url = place.dataset.join;
  if (!joins.has(url)) joins.set(url, fetch(url).then((answer) => (answer.ok ? answer.json() : null)));
  const join = await joins.get(url);
  if (!join) return;
  const sound = join.loudness_step === null ? "" : `, ${join.loudness_step.toFixed(1)} dB`;
  const verdict = join.cut ? "a cut" : join.wrong.join("; ") || "joins well";
  place.textContent = `${join.change.toFixed(1)} (inside up to ${join.largest_change.toFixed(1)})${sound}: ${verdict}`;
}

const ended = (target, name) => new Promise((resolve) => target.addEventListener(name, resolve, { once: true }));

async function listed(film) {
  const answer = await answered(`${film}/live`, { cache: "no-store" });
  return answer.ok ? answer.json() : { pieces: [], ended: true };
}

const LARGEST_SCALE = 3; // a small film is not blown up to the width of the page

// Chromium's own HLS player fails on a short growing playlist, so the page appends the same pieces itself.
async function play(video) {
  const film = video.dataset.film;
  video.style.maxWidth = `${LARGEST_SCALE * video.dataset.width}px`;
  if ("done" in video.dataset) { video.src = `${film}/film`; return; }
  let now = await listed(film);
  while (!now.pieces.length && !now.ended) { await wait(1000); now = await listed(film); }
  if (!now.pieces.length) { caption("Nothing was rendered"); return; }
  if (!("MediaSource" in window)) { video.src = `${film}/live.m3u8`; return; }
  const source = new MediaSource();
  video.src = URL.createObjectURL(source);
  await ended(source, "sourceopen");
  const header = await (await answered(now.header)).arrayBuffer();
  const buffer = source.addSourceBuffer(`video/mp4; codecs="${codec(new Uint8Array(header))}, mp4a.40.2"`);
  const append = async (data) => {
    try { buffer.appendBuffer(data); } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
      await wait(1000); // the buffer is full until some of it was played
      return append(data);
    }
    await ended(buffer, "updateend");
  };
  await append(header);
  video.play().catch(() => {});
  for (let done = 0, epoch = now.epoch; ; ) {
    for (; done < now.pieces.length; done++) {
      const piece = await answered(now.pieces[done]);
      if (!piece.ok) break; // the film was changed, or deleted
      await append(await piece.arrayBuffer());
    }
    caption(now.ended ? "All that was rendered" : `Live: ${done} ${done === 1 ? "segment" : "segments"} can be played`);
    if (now.ended) break;
    await wait(500);
    now = await listed(film);
    if ("epoch" in now && now.epoch !== epoch) { location.assign(live.dataset.page); return; }
  }
  source.endOfStream();
}

const caption = (text) => { document.querySelector("[data-player]").textContent = text; };

// The H.264 profile and level are in the avcC box.
function codec(bytes) {
  const at = bytes.findIndex((_, i) => [0x61, 0x76, 0x63, 0x43].every((byte, k) => bytes[i + k] === byte));
  return `avc1.${[...bytes.slice(at + 5, at + 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

const live = document.querySelector("[data-live]");
const video = document.querySelector("video[data-film]");
if (live) watchJoins(live);
if (live) follow(live, document.querySelector("[data-log]"));
if (video) play(video);
