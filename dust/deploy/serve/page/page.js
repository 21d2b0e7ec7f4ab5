// The page: videos are sent one sample after the other, a camera frame by frame, and the answers are shown.
"use strict";
import { FEW, clock, csvText, drawBars, drawLine, element, labelAt, moveCursor, percent, windowAt } from "./show.js";

const $ = (id) => document.getElementById(id);
const AT_ONCE = 2; // uploads
const ROLLING = 60; // seconds of a camera's timeline that are kept
let model = { classes: [], preprocess: {}, limits: {} };
let token = "";
let shown = null; // the sample that is watched, or the camera
let everything = false; // all classes are listed
let samples = [];
let sending = 0;

function say(text, wrong = false) {
  $("say").textContent = text;
  $("say").className = wrong ? "wrong" : "";
}

// ---- the model

async function hello() {
  const reply = await fetch("/model", { headers: authorization() }).catch(() => null);
  if (!reply) return say("The server does not answer.", true);
  const found = await reply.json();
  $("door").hidden = reply.status !== 401;
  $("drop").hidden = !reply.ok;
  if (reply.status === 401) {
    $("token").focus();
    return say(token ? "That is not the token." : "", true);
  }
  if (!reply.ok) return say(found.error, true);
  model = found;
  const { source, name } = model.model;
  $("model").textContent = `${name}, ${model.classes.length} classes: ${source}`;
  document.title = `dust: ${name}`;
  $("camera").hidden = !hasTime() || !navigator.mediaDevices;
  $("pick").accept = hasTime() ? "video/*,.mkv,.avi,.ts,.flv" : "";
  $("hint").textContent = `or drop videos here, each of at most ${model.limits.max_mb} MB and ${model.limits.max_minutes} minutes`;
  say("");
}

// Whether the model sees a video alone: then one file is one sample, and it has a timeline.
const hasTime = () => ["video", "recording"].includes(model.preprocess.input);
const authorization = () => (token ? { Authorization: `Bearer ${token}` } : {});

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  hello();
});

// ---- samples: one file, or those that belong together

function take(files) {
  const groups = new Map();
  for (const file of files) {
    const key = hasTime() ? groups.size : file.name.replace(/\.[^.]*$/, "").replace(/_view_\d+$/, "");
    groups.set(key, [...(groups.get(key) ?? []), file]);
  }
  for (const group of groups.values()) add(group);
  if (groups.size) say(`${groups.size} ${groups.size === 1 ? "video is" : "videos are"} sent.`);
  next();
}

function add(files) {
  const isVideo = (file) => file.type.startsWith("video/") || !/\.(csv|np[yz])$/i.test(file.name);
  files.sort((a, b) => isVideo(b) - isVideo(a));
  const row = $("files").tBodies[0].insertRow();
  const sample = { files, name: files[0].name, row, state: "waits", answer: null, timeline: null };
  const button = element("button", sample.name);
  button.type = "button";
  button.addEventListener("click", () => watch(sample));
  row.insertCell().append(button);
  for (const name of ["", "n", "", ""]) row.insertCell().className = name;
  samples.push(sample);
  $("table").hidden = false;
  tell(sample, "waits");
}

function tell(sample, text, wrong = false) {
  const cell = sample.row.cells[4];
  cell.textContent = text;
  cell.className = wrong ? "wrong" : "";
}

function next() {
  const waiting = samples.filter((one) => one.state === "waits");
  while (sending < AT_ONCE && waiting.length) {
    sending += 1;
    const sample = waiting.shift();
    send(sample).finally(() => {
      sending -= 1;
      next();
      if (!samples.some((one) => ["waits", "sent"].includes(one.state))) summary();
    });
  }
}

function summary() {
  const failed = samples.filter((one) => one.state === "failed").length;
  const done = samples.filter((one) => one.state === "done");
  $("csv").disabled = !samples.some((one) => one.answer);
  if (!samples.length) return;
  const single = samples.length === 1 && done.length ? `${done[0].name}: ${done[0].answer.label}, ${percent(done[0].answer.confidence)}` : "";
  const many = `${done.length} answered${failed ? `, ${failed} not` : ""}`;
  say(single || (samples.length === 1 ? `${samples[0].name}: ${samples[0].reason}` : many), failed > 0);
}

async function send(sample) {
  sample.state = "sent";
  const size = sample.files.reduce((sum, file) => sum + file.size, 0);
  if (size > model.limits.max_mb * 2 ** 20) {
    return fail(sample, `has ${Math.ceil(size / 2 ** 20)} MB, and at most ${model.limits.max_mb} MB are taken`);
  }
  for (;;) {
    const { status, body, retry } = await post(sample);
    if (!samples.includes(sample)) return undefined; // cleared meanwhile
    if (status === 503) {
      tell(sample, "waits for a place");
      await new Promise((resolve) => setTimeout(resolve, 1000 * retry));
      continue;
    }
    if (status === 401) hello();
    const answer = body?.predictions?.[0];
    if (answer?.error || !answer) {
      sample.answer = answer ?? null;
      return fail(sample, answer?.error ?? body?.error ?? "the server does not answer");
    }
    return done(sample, answer, body.timeline);
  }
}

function post(sample) {
  const form = new FormData();
  for (const file of sample.files) form.append("file", file);
  const request = new XMLHttpRequest();
  sample.request = request;
  const bar = element("progress");
  bar.max = 1;
  bar.setAttribute("aria-label", `${sample.name} is sent`);
  tell(sample, "");
  sample.row.cells[4].append(bar);
  request.upload.addEventListener("progress", (event) => { bar.value = event.total ? event.loaded / event.total : 0; });
  request.upload.addEventListener("load", () => tell(sample, "is looked at"));
  return new Promise((resolve) => {
    request.addEventListener("loadend", () => {
      let body = null;
      try { body = JSON.parse(request.responseText); } catch { /* a connection that broke off has no answer */ }
      resolve({ status: request.status, body, retry: Number(request.getResponseHeader("Retry-After") ?? 2) || 2 });
    });
    request.open("POST", `/predict?timeline=${hasTime()}`);
    if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
    request.send(form);
  });
}

function brief(text) {
  const made = element("span", text, "brief");
  made.title = text;
  return made;
}

function fail(sample, reason) {
  Object.assign(sample, { state: "failed", reason });
  sample.answer ??= { id: sample.name, path: sample.name, error: reason };
  sample.row.cells[1].textContent = "not answered";
  tell(sample, reason, true);
  if (shown === sample) watch(sample);
}

function done(sample, answer, timeline) {
  const ok = timeline && !timeline.error && timeline.segments.length;
  Object.assign(sample, { state: "done", answer, timeline: ok ? timeline : null });
  const [, label, sure, second] = sample.row.cells;
  label.replaceChildren(brief(answer.label));
  sure.textContent = percent(answer.confidence);
  const others = (answer.top ?? []).filter(([name]) => name !== answer.label).slice(0, 1);
  second.replaceChildren(...others.map(([name, value]) => brief(`${percent(value)} ${name}`)));
  const remarks = [answer.damage ? `damaged: ${answer.damage}` : "", ...(answer.warnings ?? [])].filter(Boolean);
  tell(sample, remarks.join("; "));
  sample.notes = [...remarks, timeline?.error ? `No timeline: ${timeline.error}` : ""].filter(Boolean);
  $("csv").disabled = false;
  if (!shown || shown === sample || (shown.live && !camera)) watch(sample);
}

// ---- watching one

function watch(sample) {
  stopCamera();
  for (const one of samples) one.row.removeAttribute("aria-current");
  sample.row.setAttribute("aria-current", "true");
  shown = sample;
  $("watch").hidden = false;
  $("watched").textContent = sample.name;
  $("notes").textContent = sample.reason ?? (sample.notes ?? []).join("; ");
  $("notes").className = sample.reason ? "note wrong" : "note";
  $("notes").hidden = !$("notes").textContent;
  play(sample.files[0]);
  const timeline = sample.timeline;
  $("time").hidden = $("moments").hidden = !timeline;
  $("whole").hidden = !sample.answer?.probabilities;
  bars();
  if (!timeline) return;
  $("moment").max = timeline.duration;
  $("slide").hidden = false;
  drawLine($("line"), timeline.segments, 0, timeline.duration, model.classes);
  $("list").hidden = false;
  $("segments").replaceChildren(...timeline.segments.map((one) => {
    const row = element("tr");
    const jump = element("button", clock(one.start));
    jump.type = "button";
    jump.addEventListener("click", () => seek(one.start));
    row.append(element("td"), element("td", clock(one.end)), element("td", one.label), element("td", percent(one.confidence), "n"));
    row.firstChild.append(jump);
    return row;
  }));
  at(0);
}

function play(file) {
  const video = $("video");
  if (video.src) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.controls = true;
  video.hidden = false;
  $("unplayed").hidden = true;
  video.setAttribute("aria-label", file.name);
  video.src = URL.createObjectURL(file);
}

function bars() {
  const all = Object.entries(shown?.answer?.probabilities ?? {}).sort((a, b) => b[1] - a[1]);
  drawBars($("bars"), everything ? all : all.slice(0, FEW));
  $("all").hidden = all.length <= FEW;
  $("all").textContent = everything ? `The likeliest ${FEW} alone` : `All ${all.length} classes`;
  $("all").setAttribute("aria-expanded", String(everything));
}

function at(seconds) {
  const timeline = shown?.timeline;
  if (!timeline) return;
  const label = labelAt(timeline.segments, seconds);
  $("moment").value = seconds;
  $("moment").setAttribute("aria-valuetext", `${clock(seconds)}, ${label}`);
  $("now").textContent = `${clock(seconds)} of ${clock(timeline.duration)}: ${label}`;
  moveCursor($("line"), seconds / timeline.duration);
  drawBars($("bars-now"), windowAt(timeline.windows, seconds)?.top ?? []);
}

function seek(seconds) {
  if (Number.isFinite($("video").duration)) $("video").currentTime = seconds;
  at(seconds);
}

$("all").addEventListener("click", () => { everything = !everything; bars(); });
$("moment").addEventListener("input", () => seek(Number($("moment").value)));
$("line").addEventListener("click", (event) => {
  if (!shown?.timeline || shown.live) return;
  const box = $("line").getBoundingClientRect();
  seek(((event.clientX - box.left) / box.width) * shown.timeline.duration);
});
$("video").addEventListener("error", () => {
  if (!$("video").src || shown?.live) return;
  $("video").hidden = true;
  $("unplayed").hidden = Boolean(shown?.reason); // its own sentence is enough
});
(function follow() {
  const video = $("video");
  if (shown?.timeline && !shown.live && !video.paused) at(video.currentTime);
  requestAnimationFrame(follow);
})();
$("video").addEventListener("seeked", () => { if (!shown?.live) at($("video").currentTime); });

// ---- a camera

let camera = null;

async function startCamera(deviceId) {
  stopCamera();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: deviceId ? { deviceId: { exact: deviceId } } : true });
  } catch (error) {
    return say(`The camera cannot be used: ${error.message}`, true);
  }
  const devices = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput");
  $("device").replaceChildren(...devices.map((one, number) => {
    const option = element("option", one.label || `camera ${number + 1}`);
    option.value = one.deviceId;
    return option;
  }));
  $("device").value = stream.getVideoTracks()[0].getSettings().deviceId;
  $("devices").hidden = devices.length < 2;
  $("camera").textContent = "Stop the camera";
  $("camera").setAttribute("aria-pressed", "true");
  for (const one of samples) one.row.removeAttribute("aria-current");
  const windows = [];
  shown = { live: true, name: "Camera", answer: null, timeline: { windows, segments: [], duration: ROLLING } };
  $("watch").hidden = $("time").hidden = $("moments").hidden = false;
  $("whole").hidden = $("notes").hidden = $("unplayed").hidden = $("list").hidden = $("slide").hidden = true;
  $("watched").textContent = "Camera";
  const video = $("video");
  if (video.src) URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  video.hidden = video.controls = false;
  video.srcObject = stream;
  await video.play();
  camera = { stream, socket: openStream(), timer: 0 };
  return undefined;
}

// Frames a second that are sent: a window takes the last one before each of its moments; steps are counted in frames.
function frameRate() {
  const { input, target_fps: fps = 30, sampling_rate: step = 1 } = model.preprocess;
  return input === "recording" ? 10 : Math.min(15, Math.max(5, (2 * fps) / step));
}

function openStream() {
  const base64 = (text) => btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/stream?fps=${frameRate()}`, ["dust", ...(token ? [`dust.token.${base64(token)}`] : [])]);
  socket.binaryType = "arraybuffer";
  socket.addEventListener("open", () => { say("The camera's frames are sent."); film(socket); });
  socket.addEventListener("message", (event) => {
    if (camera?.socket === socket) hear(JSON.parse(event.data));
  });
  socket.addEventListener("close", () => {
    if (camera?.socket !== socket) return;
    stopCamera();
    if (!$("say").classList.contains("wrong")) say("The server has ended the stream.", true);
  });
  return socket;
}

function film(socket) {
  const side = model.preprocess.short_side ?? model.preprocess.crop_size ?? 224;
  const video = $("video");
  const scale = Math.min(1, Math.max(side, 240) / Math.min(video.videoWidth, video.videoHeight));
  const canvas = element("canvas");
  [canvas.width, canvas.height] = [Math.round(video.videoWidth * scale), Math.round(video.videoHeight * scale)];
  const context = canvas.getContext("2d");
  const begin = performance.now();
  let encoding = false;
  camera.timer = setInterval(() => {
    if (encoding || socket.readyState !== WebSocket.OPEN || socket.bufferedAmount > 2 ** 20) return;
    const seconds = (performance.now() - begin) / 1000;
    context.drawImage(video, 0, 0, canvas.width, canvas.height);
    encoding = true;
    canvas.toBlob(async (blob) => {
      const message = new Uint8Array(8 + blob.size);
      new DataView(message.buffer).setFloat64(0, seconds, true);
      message.set(new Uint8Array(await blob.arrayBuffer()), 8);
      encoding = false;
      if (socket.readyState === WebSocket.OPEN) socket.send(message);
    }, "image/jpeg", 0.9);
  }, 1000 / frameRate());
}

function hear(message) {
  if (message.error) return say(message.error, true);
  if (message.notes) return say(message.notes.join("; "));
  const { segments } = shown.timeline;
  const last = segments[segments.length - 1];
  const label = message.label || last?.label || "";
  if (last?.label === label) last.end = message.end;
  else segments.push({ start: last?.end ?? message.start, end: message.end, label, confidence: message.confidence });
  const from = Math.max(0, message.end - ROLLING);
  while (segments[0].end < from) segments.shift();
  drawLine($("line"), segments, from, ROLLING, model.classes);
  moveCursor($("line"), (message.end - from) / ROLLING);
  if (message.top) drawBars($("bars-now"), message.top);
  const late = message.delay === undefined ? "" : `, ${(1000 * message.delay).toFixed(0)} ms after its last frame`;
  $("now").textContent = `${clock(message.end)}: ${label} ${percent(message.confidence)}${late}`;
  if (last?.label !== label) say(`${label} ${percent(message.confidence)}`);
  return undefined;
}

function stopCamera() {
  if (!camera) return;
  const { stream, socket, timer } = camera;
  camera = null;
  clearInterval(timer);
  for (const track of stream.getTracks()) track.stop();
  socket.close();
  $("video").srcObject = null;
  $("camera").textContent = "Start the camera";
  $("camera").setAttribute("aria-pressed", "false");
  $("devices").hidden = true;
}

$("camera").addEventListener("click", () => (camera ? (stopCamera(), say("The camera is off.")) : startCamera()));
$("device").addEventListener("change", () => startCamera($("device").value));

// ---- files that come in, and answers that go out

$("pick").addEventListener("change", () => { take([...$("pick").files]); $("pick").value = ""; });
for (const name of ["dragover", "dragleave", "drop"]) {
  window.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && !$("drop").hidden) take([...event.dataTransfer.files]);
  });
}
$("csv").addEventListener("click", () => {
  const link = element("a");
  const blob = new Blob([csvText(samples.map((one) => one.answer).filter(Boolean))], { type: "text/csv" });
  link.href = URL.createObjectURL(blob);
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
$("clear").addEventListener("click", () => {
  for (const one of samples) one.request?.abort();
  samples = [];
  $("files").tBodies[0].replaceChildren();
  $("table").hidden = true;
  $("csv").disabled = true;
  if (!shown?.live) {
    shown = null;
    $("watch").hidden = true;
    $("video").removeAttribute("src");
    $("video").load();
  }
  say("Cleared.");
  $("pick").focus();
});

hello();
