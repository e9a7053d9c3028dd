"use strict";
// Shows traced episodes. The data are those of maicc/report/replay.py.
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const now = { run: 0, episode: 0, step: 0, agent: 0, path: null, timer: null };

const run = () => data.runs[now.run];
const episode = () => run().episodes[now.episode];
const colour = (agent) => data.colours[agent % data.colours.length];

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function fill(parent, children) {
  parent.replaceChildren(...children);
}

// ---- the board

function drawBoard() {
  const board = episode().board, picture = episode().steps[now.step].picture;
  const canvas = find("board"), numbers = find("numbers");
  canvas.hidden = Boolean(board.numbers);
  numbers.hidden = !board.numbers;
  if (board.numbers) return drawNumbers(picture);
  const scale = 640 / Math.max(board.width, board.height);
  canvas.width = Math.round(board.width * scale);
  canvas.height = Math.round(board.height * scale);
  const pen = canvas.getContext("2d");
  if (board.frames) {
    const image = new Image();
    image.onload = () => pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    image.src = picture;
    return;
  }
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.strokeStyle = "#e5e7eb";
  pen.lineWidth = 1;
  pen.strokeRect(0.5, 0.5, canvas.width - 1, canvas.height - 1);
  if (board.grid) {
    pen.beginPath();
    for (let x = 0; x <= board.width + 1e-6; x += board.grid) {
      pen.moveTo(x * scale, 0); pen.lineTo(x * scale, canvas.height);
    }
    for (let y = 0; y <= board.height + 1e-6; y += board.grid) {
      pen.moveTo(0, y * scale); pen.lineTo(canvas.width, y * scale);
    }
    pen.stroke();
  }
  for (const shape of picture) drawShape(pen, scale, shape);
  drawPaths(pen, scale);
}

function drawShape(pen, scale, [kind, x, y, size, own, label, agent]) {
  const middle = [x * scale, y * scale], radius = (size * scale) / 2;
  pen.fillStyle = own || (agent >= 0 ? colour(agent) : "#9ca3af");
  const name = data.kinds[kind];
  if (name === "circle") {
    pen.beginPath(); pen.arc(...middle, radius, 0, 2 * Math.PI); pen.fill();
    if (agent === now.agent && agent >= 0) {
      pen.lineWidth = 3; pen.strokeStyle = "#111827"; pen.stroke();
    }
  } else if (name === "square") {
    pen.fillRect(middle[0] - radius, middle[1] - radius, 2 * radius, 2 * radius);
  }
  const text = label || (agent >= 0 ? String(agent) : "");
  if (!text) return;
  const height = name === "text" ? 2 * radius : radius;
  pen.font = `${Math.max(height, 11)}px system-ui, sans-serif`;
  pen.textAlign = "center"; pen.textBaseline = "middle";
  pen.fillStyle = name === "circle" ? "#fff" : "#111827";
  pen.fillText(text, ...middle);
}

function drawPaths(pen, scale) {
  for (const name of remembered().map((memory) => memory.path)) drawPath(pen, scale, name, false);
  if (now.path) drawPath(pen, scale, now.path, true);
}

function drawPath(pen, scale, name, chosen) {
  const places = data.paths[name];
  if (!places || !places.length) return;
  pen.save();
  pen.globalAlpha = chosen ? 1 : 0.18;
  pen.strokeStyle = chosen ? "#f59e0b" : colour(now.agent);
  pen.lineWidth = chosen ? 5 : 3;
  pen.setLineDash(chosen ? [] : [6, 5]);
  pen.beginPath();
  places.forEach(([x, y], i) => (i ? pen.lineTo(x * scale, y * scale) : pen.moveTo(x * scale, y * scale)));
  pen.stroke();
  if (chosen) {
    const [x, y] = places[Math.min(now.step, places.length - 1)];
    pen.beginPath(); pen.arc(x * scale, y * scale, 8, 0, 2 * Math.PI);
    pen.fillStyle = "#f59e0b"; pen.fill();
  }
  pen.restore();
}

function drawNumbers(picture) {
  const table = element("table");
  picture.forEach((numbers, agent) => {
    const row = element("tr");
    row.append(element("th", run().agents[agent] ?? ""), element("td", numbers.join("  ")));
    if (agent < run().agents.length) table.append(row);
  });
  fill(find("numbers"), [element("h2", "What agents see"), table]);
}

// ---- the agent's mind

// Trajectories that the chosen agent remembered at this step.
function remembered() {
  const decision = episode().steps[now.step].agents[now.agent];
  const shown = episode().record[now.agent].map((past) => ({
    where: "record", episode: past, agent: now.agent, value: run().returns[past].toFixed(2),
    path: `${now.run}/${past}/${now.agent}`,
  }));
  const found = ((decision && decision.retrieved) || []).map(
    ([source, past, agent, task, similarity, utility, value, path]) => ({
      where: source ? "own memory" : `dataset, ${data.tasks[task] ?? "task " + task}`,
      episode: past, agent, similarity, utility, value: value.toFixed(2), path,
    })
  );
  return [...found, ...shown];
}

function drawMind() {
  const decision = episode().steps[now.step].agents[now.agent];
  fill(find("agents"), run().agents.map((name, agent) => {
    const button = element("button", name, { "aria-pressed": agent === now.agent, "data-agent": agent });
    if (agent === now.agent) button.style.background = colour(agent);
    button.onclick = () => choose({ agent, path: null });
    return button;
  }));
  if (!decision) {
    fill(find("why"), [element("p", "This agent is not there at this step.", { class: "grey" })]);
    fill(find("actions"), []);
    fill(find("remembered"), []);
    return;
  }
  fill(find("why"), [element("p", why(decision))]);
  const bars = [];
  decision.percent.forEach((percent, action) => {
    if (percent < 0) return;
    const name = element("b", data.actions[action] ?? action);
    if (action === decision.action) name.className = "chosen";
    else name.style.fontWeight = "normal";
    const bar = element("i");
    bar.style.width = `${percent}%`;
    bar.style.background = action === decision.action ? colour(now.agent) : "#d1d5db";
    const cell = element("span");
    cell.append(bar);
    bars.push(name, cell, element("span", `${percent} %`, { class: "number grey" }));
  });
  fill(find("actions"), bars);
  const memories = remembered();
  if (!memories.length) {
    fill(find("remembered"), [element("h2", "Remembered"), element("p", "Nothing yet.", { class: "grey" })]);
    return;
  }
  const table = element("table"), looked = memories.some((m) => m.similarity !== undefined);
  const head = element("tr");
  const titles = ["from", "episode", "return", ...(looked ? ["agent", "similarity", "utility"] : [])];
  head.append(...titles.map((title) => element("th", title)));
  table.append(head);
  for (const memory of memories) {
    const row = element("tr", undefined, { "data-path": memory.path, tabindex: 0 });
    if (memory.path === now.path) row.className = "shown";
    const cells = [memory.where, memory.episode + 1, memory.value];
    if (looked) cells.push(memory.agent, memory.similarity ?? "", memory.utility ?? "");
    row.append(...cells.map((text) => element("td", text)));
    row.onclick = () => choose({ path: now.path === memory.path ? null : memory.path });
    table.append(row);
  }
  const box = element("div", undefined, { class: "scroll" });
  box.append(table);
  fill(find("remembered"), [element("h2", "Remembered"), box]);
}

function why(decision) {
  const name = data.actions[decision.action] ?? decision.action;
  if (decision.sampled) return `Sampled ${name}: the team still explores.`;
  if (decision.repeated >= 0) return `Repeated ${name} of its episode ${decision.repeated + 1}, which reached the goal.`;
  return `Took the best action, ${name}.`;
}

// ---- the curve of returns

function drawCurve() {
  const returns = run().returns, width = 1000, height = 140, left = 34, bottom = 18;
  const low = Math.min(data.bounds[0], ...returns), high = Math.max(data.bounds[1], ...returns);
  const x = (i) => left + ((width - left - 8) * (i + 0.5)) / returns.length;
  const y = (value) => 6 + (height - bottom - 6) * (1 - (value - low) / (high - low || 1));
  const traced = new Map(run().episodes.map((each, place) => [each.number, place]));
  const points = returns.map((value, i) => {
    const place = traced.get(i), shown = place === now.episode;
    const radius = shown ? 6 : place === undefined ? 1.5 : 4;
    const paint = shown ? "#f59e0b" : place === undefined ? "#9ca3af" : "#2563eb";
    const attributes = place === undefined ? "" : `data-episode="${place}" tabindex="0"`;
    return `<circle cx="${x(i)}" cy="${y(value)}" r="${radius}" fill="${paint}" ${attributes}>` +
      `<title>episode ${i + 1}: ${value.toFixed(2)}</title></circle>`;
  });
  find("curve").innerHTML =
    `<svg viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" role="img" aria-label="returns">` +
    [low, high].map((value) => `<text x="2" y="${y(value) + 4}" font-size="11" fill="#6b7280">${+value.toFixed(2)}</text>`).join("") +
    `<polyline fill="none" stroke="#93c5fd" stroke-width="1.5" points="${returns.map((v, i) => `${x(i)},${y(v)}`).join(" ")}"/>` +
    points.join("") +
    `<text x="${left}" y="${height - 3}" font-size="11" fill="#6b7280">episode 1</text>` +
    `<text x="${width - 8}" y="${height - 3}" font-size="11" text-anchor="end" fill="#6b7280">${returns.length}</text></svg>`;
  for (const point of find("curve").querySelectorAll("[data-episode]")) {
    point.onclick = () => choose({ episode: Number(point.dataset.episode), step: 0, path: null });
  }
}

// ---- what is chosen

function choose(changes) {
  const before = { ...now };
  Object.assign(now, changes);
  if (now.run !== before.run) {
    Object.assign(now, { episode: Math.min(now.episode, run().episodes.length - 1), step: 0, path: null });
    now.agent = Math.min(now.agent, run().agents.length - 1);
  }
  const steps = episode().steps.length;
  now.step = Math.max(0, Math.min(now.step, steps - 1));
  if (now.run !== before.run || !find("episode").options.length) {
    fill(find("episode"), run().episodes.map((each, place) =>
      element("option", `${each.number + 1} (${run().returns[each.number].toFixed(2)})`, { value: place })));
  }
  find("run").value = now.run;
  find("episode").value = now.episode;
  find("step").max = steps - 1;
  find("step").value = now.step;
  const reward = episode().steps[now.step].reward;
  find("where").textContent = `step ${now.step + 1} of ${steps}, paid ${reward}`;
  drawBoard();
  drawMind();
  drawCurve();
}

function pause() {
  clearInterval(now.timer);
  now.timer = null;
  find("play").textContent = "Play";
}

function play() {
  if (now.timer) return pause();
  if (now.step === episode().steps.length - 1) choose({ step: 0 });
  find("play").textContent = "Pause";
  now.timer = setInterval(() => {
    choose({ step: now.step + 1 });
    if (now.step === episode().steps.length - 1) pause();
  }, 450);
}

function move(by) {
  const last = run().episodes.length - 1;
  choose({ episode: Math.max(0, Math.min(now.episode + by, last)), step: 0, path: null });
}

fill(find("run"), data.runs.map((each, i) => element("option", `${i + 1}: ${each.task}`, { value: i })));
find("run").onchange = (event) => choose({ run: Number(event.target.value) });
find("episode").onchange = (event) => choose({ episode: Number(event.target.value), step: 0, path: null });
find("step").oninput = (event) => choose({ step: Number(event.target.value) });
find("play").onclick = play;
find("back").onclick = () => choose({ step: now.step - 1 });
find("on").onclick = () => choose({ step: now.step + 1 });
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const range = event.target.type === "range";
  const agent = Number(event.key) - 1;
  if (event.key === " " && event.target.tagName !== "BUTTON") play();
  else if (event.key === "ArrowLeft" && !range) choose({ step: now.step - 1 });
  else if (event.key === "ArrowRight" && !range) choose({ step: now.step + 1 });
  else if (event.key === "ArrowUp" && !range) move(-1);
  else if (event.key === "ArrowDown" && !range) move(1);
  else if (event.key === "Enter" && event.target.dataset.path) event.target.click();
  else if (event.key === "Enter" && event.target.dataset.episode)
    choose({ episode: Number(event.target.dataset.episode), step: 0, path: null });
  else if (agent >= 0 && agent < run().agents.length) choose({ agent, path: null });
  else return;
  event.preventDefault();
});
choose({});
