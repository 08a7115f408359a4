// The operators' page: requests the status of the cluster periodically, and shows it. This file
// connects the parts, and shows when the server does not respond.

import "uplot/dist/uPlot.min.css";
import "./operator/page.css";
import type { Unanswered } from "./ask";
import { byId, el, setText } from "./dom";
import { Charts } from "./operator/charts";
import { NodeTable } from "./operator/nodes";
import { BusiestRooms, RoomPanel } from "./operator/rooms";
import { keepAsking, type NodeStatus, type RollCalls, type Status } from "./operator/status";
import { summary } from "./operator/words";
import { myToken } from "./token";
import { clockTime, millis } from "./words";

const UNAUTHORIZED = 401;
const ALL = "";

const page = byId("page");
const fault = byId("fault");
const link = byId("link");
const of = byId<HTMLSelectElement>("of");
const nodes = new NodeTable();
const charts = new Charts();
const panel = new RoomPanel();
const rooms = new BusiestRooms((room) => panel.choose(room));
let last: Status | undefined;

function show(status: Status): void {
  last = status;
  setLink("live");
  byId("content").hidden = false;
  fault.hidden = true;
  const asked = status.nodes.find((node) => node.id === status.asked);
  setText(byId("summary"), summary(status));
  const through = `asked through ${asked?.name ?? status.asked} in ${millis(status.took_ms)}`;
  setText(byId("as-of"), `As of ${clockTime(status.as_of)}, ${through}`);
  page.dataset.well = String(status.well);
  const directory = byId("directory");
  directory.hidden = status.directory === "ok";
  setText(directory, `The directory ${status.directory}.`);
  document.title = `${status.well ? "" : "(!) "}Cluster · Rollcall`;
  nodes.show(status);
  rooms.show(status);
  showChoice(status.nodes);
  showCharts();
}

/** Keeps the content, and shows its age and the time of the next attempt. */
function fail(why: Unanswered, again: number): void {
  setLink(last ? "stale" : "away");
  const kept = last ? ` This is how it was at ${clockTime(last.as_of)}.` : "";
  const sentence = /[.!?]$/.test(why.message) ? why.message : `${why.message}.`;
  const token = myToken() === null ? "<your token>" : "<another token>";
  const advice = why.status === UNAUTHORIZED ? ` Open this page again with #token=${token} behind its address.` : "";
  fault.hidden = false;
  setText(fault, `${sentence}${advice}${kept} Trying again every ${again / 1000} seconds.`);
  document.title = "(!) Cluster · Rollcall";
}

function setLink(state: "live" | "stale" | "away"): void {
  link.dataset.state = state === "live" ? "connected" : "disconnected";
  setText(byId("state"), state);
}

/** The node whose roll calls the charts show, unless it is no member any more. */
function showChoice(all: NodeStatus[]): void {
  const wanted = [ALL, ...all.map((node) => node.id)];
  if ([...of.options].map((option) => option.value).join() === wanted.join()) return;
  const chosen = of.value;
  const options = all.map((node) => {
    const option = el("option", "", node.name);
    option.value = node.id;
    return option;
  });
  const first = el("option", "", "the whole cluster");
  first.value = ALL;
  of.replaceChildren(first, ...options);
  of.value = wanted.includes(chosen) ? chosen : ALL;
}

function showCharts(): void {
  if (!last) return;
  const node: NodeStatus | undefined = last.nodes.find((one) => one.id === of.value);
  const calls: RollCalls | undefined = node ? node.roll_calls : last.roll_calls;
  byId("no-calls").hidden = calls !== undefined;
  byId("charts").hidden = calls === undefined;
  if (calls) charts.show(calls);
}

of.addEventListener("change", showCharts);
keepAsking(show, fail);
