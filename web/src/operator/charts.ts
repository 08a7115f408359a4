// The two charts of roll calls: their number, and their duration. The colours are those of the
// style sheet. The text under a chart has the same information.

import uPlot from "uplot";
import { byId, setText } from "../dom";
import { millis } from "../words";
import type { RollCalls } from "./status";
import { perSecond } from "./words";

interface Line {
  label: string;
  colour: string;
  dash?: number[];
  fill?: string;
}

interface Kind {
  lines: Line[];
  title: string;
  /** The label of the axis, and of the text under the chart. */
  short: (value: number) => string;
  long: (value: number) => string;
}

const HEIGHT = 190;
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });
const clockWithSeconds = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const tick = new Intl.NumberFormat("en", { maximumFractionDigits: 2, notation: "compact" });

const RATE: Kind = {
  title: "Roll calls per second",
  lines: [
    { label: "all", colour: "--accent", fill: "--accent-tint" },
    { label: "incomplete", colour: "--bad", dash: [4, 3] },
  ],
  short: (value) => tick.format(value),
  long: (value) => `${perSecond(value)}/s`,
};

const LATENCY: Kind = {
  title: "How long they took",
  lines: [
    { label: "half within", colour: "--accent" },
    { label: "99 in 100 within", colour: "--warn", dash: [4, 3] },
  ],
  short: (value) => `${tick.format(value)} ms`,
  long: (value) => millis(value),
};

class Chart {
  private readonly plot: HTMLElement;
  private readonly words: HTMLElement[];
  private data: uPlot.AlignedData = [[], [], []];
  private chart: uPlot | undefined;
  private pointed: number | null = null;

  constructor(
    private readonly figure: HTMLElement,
    private readonly kind: Kind,
  ) {
    this.plot = figure.querySelector<HTMLElement>(".plot")!;
    this.words = [...figure.querySelectorAll<HTMLElement>(".value")];
    new ResizeObserver(() => this.resize()).observe(this.plot);
    // The colours are drawn on a canvas, so a change of the theme needs a redraw.
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  show(data: uPlot.AlignedData): void {
    this.data = data;
    if (this.chart) this.chart.setData(data);
    else this.draw();
    this.describe();
  }

  private draw(): void {
    this.chart?.destroy();
    const colour = (name: string): string => getComputedStyle(this.figure).getPropertyValue(name).trim();
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const font = `12px ${colour("--sans")}`;
    this.chart = new uPlot(
      {
        width: Math.max(this.plot.clientWidth, 120),
        height: HEIGHT,
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { size: 7 } },
        scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.15 : 1] } },
        axes: [
          { ...axis, font, size: 30, space: 70, values: (_, at) => at.map((seconds) => clock.format(seconds * 1000)) },
          { ...axis, font, size: 62, space: 36, values: (_, at) => at.map(this.kind.short) },
        ],
        series: [
          {},
          ...this.kind.lines.map(({ label, colour: name, dash, fill }) => ({
            label,
            stroke: colour(name),
            width: 2,
            points: { show: true, size: 6, fill: colour(name), filter: lonely },
            ...(dash && { dash }),
            ...(fill && { fill: colour(fill) }),
          })),
        ],
        hooks: {
          setCursor: [
            (chart) => {
              this.pointed = chart.cursor.idx ?? null;
              this.describe();
            },
          ],
        },
      },
      this.data,
      this.plot,
    );
  }

  private resize(): void {
    if (this.plot.clientWidth > 0) this.chart?.setSize({ width: this.plot.clientWidth, height: HEIGHT });
  }

  private describe(): void {
    const [times, ...lines] = this.data;
    const at = this.pointed ?? times.length - 1;
    const seconds = times[at];
    const when = this.pointed !== null && seconds !== undefined ? clockWithSeconds.format(seconds * 1000) : "now";
    lines.forEach((line, place) => {
      const value = line[at];
      setText(this.words[place]!, typeof value === "number" ? this.kind.long(value) : "—");
    });
    setText(this.figure.querySelector(".when")!, when);
    const said = lines.map((line, place) => {
      const values = [...line].filter((value): value is number => typeof value === "number");
      const last = line[times.length - 1];
      const now = typeof last === "number" ? this.kind.long(last) : "none";
      const most = values.length > 0 ? this.kind.long(Math.max(...values)) : "none";
      return `${this.kind.lines[place]!.label}: ${now} now, ${most} at most`;
    });
    this.plot.setAttribute("aria-label", `${this.kind.title} over the last five minutes. ${said.join("; ")}.`);
  }
}

/** The indexes of values without a neighbour, for which there is no line to draw. */
function lonely(chart: uPlot, series: number): number[] {
  const values = chart.data[series] ?? [];
  const has = (place: number): boolean => typeof values[place] === "number";
  return [...values.keys()].filter((place) => has(place) && !has(place - 1) && !has(place + 1));
}

export class Charts {
  private readonly rate = new Chart(byId("rate"), RATE);
  private readonly latency = new Chart(byId("latency"), LATENCY);

  show({ bucket_ms, until_ms, calls, incomplete, p50_ms, p99_ms }: RollCalls): void {
    const times = calls.map((_, place) => (until_ms - (calls.length - 1 - place) * bucket_ms) / 1000);
    const each = (counts: number[]): number[] => counts.map((n) => n / (bucket_ms / 1000));
    this.rate.show([times, each(calls), each(incomplete)]);
    this.latency.show([times, p50_ms, p99_ms]);
  }
}
