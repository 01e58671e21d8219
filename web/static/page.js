// The page works without this script: it adds keys, zoom and the reader's time zone to plain links and forms.
"use strict";

const find = (selector, root = document) => root.querySelector(selector);
const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

function showTimes(root) {
  const format = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short" });
  for (const time of findAll("time[datetime]", root)) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.getTime())) {
      time.textContent = format.format(moment);
      time.title = moment.toISOString();
    }
  }
}

function tellZone() {
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
  for (const place of findAll("[data-zone]")) place.textContent = `your time zone, ${name}`;
}

function switchTheme() {
  const button = find("[data-theme-switch]");
  const root = document.documentElement;
  const tell = () => { button.textContent = root.dataset.theme === "light" ? "Dark theme" : "Light theme"; };
  button.hidden = false;
  tell();
  button.addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "light" ? "dark" : "light";
    document.cookie = `nightread_theme=${root.dataset.theme}; path=/; max-age=31536000; SameSite=Strict`;
    tell();
  });
}

function view(canvas) {
  const layers = find(".layers", canvas);
  const pixels = find(".pixels", canvas);
  const evidence = find(".evidence", canvas);
  const tools = find("[data-tools]");
  let scale = 1, x = 0, y = 0, size = "screen", waiting = 0;

  const place = () => { layers.style.transform = `translate(${x}px, ${y}px) scale(${scale})`; };
  const query = () => {
    const parameters = new URLSearchParams({ center: tools.center.value, width: tools.width.value });
    if (tools.invert.checked) parameters.set("invert", "1");
    return parameters;
  };
  const load = () => {
    const parameters = query();
    parameters.set("size", size);
    pixels.src = `${canvas.dataset.picture}?${parameters}`;
  };
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(load, 80); };
  const zoom = (factor, atX, atY) => {
    const next = Math.min(16, Math.max(1, scale * factor));
    x = atX - (atX - x) * next / scale;
    y = atY - (atY - y) * next / scale;
    scale = next;
    if (scale === 1) x = y = 0;
    if (scale > 1.5 && size === "screen") { size = "full"; load(); }
    place();
  };
  const zoomCentered = (factor) => zoom(factor, canvas.clientWidth / 2, canvas.clientHeight / 2);
  const reset = () => {
    scale = 1; x = y = 0; place();
    tools.center.value = 50; tools.width.value = 100; tools.invert.checked = false;
    tell(); load();
  };
  const tell = () => {
    for (const name of ["center", "width"]) find("output", tools[name].parentElement).textContent = tools[name].value;
    for (const link of findAll("a[data-key=m]", tools)) {
      const target = new URL(link.href);
      for (const name of ["center", "width", "invert"]) target.searchParams.delete(name);
      for (const [name, value] of query()) target.searchParams.set(name, value);
      link.href = target;
    }
  };

  for (const name of ["center", "width", "invert"]) tools[name].addEventListener("input", () => { tell(); soon(); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); event.preventDefault(); });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    if (event.shiftKey || event.buttons === 2) {  // as on a reading station: across is width, along is center
      tools.width.value = Number(tools.width.value) + event.movementX / 2;
      tools.center.value = Number(tools.center.value) + event.movementY / 4;
      tell(); soon();
    } else if (scale > 1) { x += event.movementX; y += event.movementY; place(); }
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => { scale = 1; x = y = 0; place(); });
  const act = { in: () => zoomCentered(1.4), out: () => zoomCentered(1 / 1.4), reset };
  for (const button of findAll("[data-zoom]")) {
    button.hidden = false;
    button.addEventListener("click", act[button.dataset.zoom]);
  }
  for (const button of findAll("[data-without-script]")) button.hidden = true;
  const opacity = find("[data-opacity]");
  if (opacity && evidence) {
    opacity.addEventListener("input", () => {
      evidence.style.opacity = opacity.value / 100;
      find("[data-opacity-shown]").textContent = opacity.value;
    });
  }
}

function listenToKeys() {
  const rows = findAll("[data-row]");
  const move = (step) => {
    const at = rows.indexOf(document.activeElement.closest("[data-row]"));
    const next = rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + step))];
    if (next) find("a", next).focus();
  };
  document.addEventListener("keydown", (event) => {
    const focused = document.activeElement.closest("[data-row]");
    const typed = event.target.closest("textarea, select, input:not([type=checkbox], [type=range])");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (typed) { if (event.key === "Escape") typed.blur(); return; }
    if (rows.length && (event.key === "j" || event.key === "k")) { move(event.key === "j" ? 1 : -1); return; }
    if (focused && focused.dataset.mark && "ads".includes(event.key)) { event.preventDefault(); markRow(focused, event.key); return; }
    const target = findAll("[data-key]").find((one) => one.dataset.key === event.key && !one.disabled && !one.hidden);
    if (!target) return;
    event.preventDefault();
    if (target.matches("input:not([type=checkbox]), textarea, select")) target.focus(); else target.click();
  });
}

// A row is marked where it is: the form goes out, the page is asked again, and the next unreviewed row gets the focus.
async function markRow(row, key) {
  const kind = { a: "agree", d: "disagree", s: "seen" }[key];
  if (kind !== "seen" && !("decided" in row.dataset)) return;
  if (kind === "disagree" && !row.dataset.alternative) { find("a", row).click(); return; }  // which label is right?
  const form = new URLSearchParams({ form_token: find("[name=form_token]", find("[data-undo]")).value, kind });
  if (kind === "disagree") form.set("label", row.dataset.alternative);
  await send(row.dataset.mark, form);
  const rows = findAll("[data-row]");
  const next = rows.slice(rows.indexOf(row) + 1).find((one) => !find(".review", one));
  if (next) find("a", next).focus();
}

async function send(address, form) {
  const answer = await fetch(address, { method: "POST", body: form, redirect: "manual" });
  if (answer.type !== "opaqueredirect") { location.reload(); return; }  // refused: the page says why, or asks to log in
  await refreshReviews();
}

async function refreshReviews() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = new Map(findAll("[data-row]", page).map((row, at) => [`${row.dataset.row} ${at}`, row]));
  for (const [at, row] of findAll("[data-row]").entries()) {
    const other = fresh.get(`${row.dataset.row} ${at}`);
    // A filter by review may have lost the row: it stays until the page is loaded again, so that it can be undone.
    if (other) find("[data-review]", row).replaceChildren(...find("[data-review]", other).childNodes);
  }
  const filters = find("#filters", page);
  if (filters) {
    const isOpen = find("[data-fold]").open;
    find("#filters").replaceChildren(...filters.childNodes);
    fold(isOpen);
  }
  showTimes(document);
}

function undoInPlace() {
  const form = find("[data-undo]");
  if (!form) return;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await send(form.action, new URLSearchParams(new FormData(form)));
  });
}

function advance() {
  const box = find("[data-advance]");
  if (!box) return;
  box.addEventListener("change", () => {
    document.cookie = `nightread_advance=${box.checked ? 1 : 0}; path=/; max-age=31536000; SameSite=Strict`;
    for (const field of findAll("[data-mark] [name=then]")) field.value = box.checked ? "next" : "stay";
  });
}

// On a phone the filters would push the rows off the screen: they open when they are asked for.
function fold(isOpen = false) {
  const part = find("[data-fold]");
  if (part && matchMedia("(max-width: 48rem)").matches) part.open = isOpen;
}

function confirmForms() {
  for (const form of findAll("[data-confirm]")) {
    form.addEventListener("submit", (event) => { if (!confirm(form.dataset.confirm)) event.preventDefault(); });
  }
}

function follow() {
  const progress = find("[data-live]");
  if (!progress) return;
  const state = find("[data-connection]");
  setTimeout(async function ask() {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (!answer.ok) throw new Error(answer.statusText);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const place of findAll("[data-live]")) {
        const fresh = page.getElementById(place.id);
        if (!fresh || !("live" in fresh.dataset)) { location.reload(); return; }  // it has ended
        if (!place.contains(document.activeElement)) { place.replaceChildren(...fresh.childNodes); showTimes(place); }
      }
      if (state) state.textContent = "live";
    } catch {
      if (state) state.textContent = "no connection; trying again";
    }
    setTimeout(ask, 3000);
  }, 3000);
}

function hideMissing() {
  for (const image of findAll("img.thumbnail")) {  // a scan that cannot be drawn has none
    const hide = () => { image.style.visibility = "hidden"; };
    if (image.complete && image.naturalWidth === 0 && image.currentSrc) hide();
    image.addEventListener("error", hide);
  }
}

showTimes(document);
hideMissing();
tellZone();
switchTheme();
for (const canvas of findAll("[data-viewer]")) view(canvas);
listenToKeys();
undoInPlace();
advance();
fold();
confirmForms();
follow();
