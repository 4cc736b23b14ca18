// One small chart: uPlot in the page's colours. The newest values stand beside the title, for everybody who cannot see lines.
import { html, useEffect, useRef } from "../vendor/htm-preact.js";
import uPlot from "../vendor/uplot.js";
import { brief } from "./format.js";
import { locale, t } from "./i18n.js";

const HEIGHT = 132;
const SPAN_S = 900;

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function options(width, lines, unit) {
  const axis = {
    stroke: color("--muted"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: color("--grid"), width: 1 },
    ticks: { show: false },
  };
  return {
    width,
    height: HEIGHT,
    padding: [8, 18, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: {
      x: { range: (_, low, high) => [(high ?? Date.now() / 1000) - SPAN_S, high ?? Date.now() / 1000] },
      y: { range: (_, low, high) => [0, Math.max(high ?? 0, unit === "ms" ? 2 : 4) * 1.1] },
    },
    series: [
      {},
      ...lines.map((line, index) => ({
        label: line.label,
        stroke: color(index ? "--line-2" : "--line-1"),
        width: 1.5,
        fill: index || lines.length > 1 ? undefined : color("--line-fill"),
        points: { show: false },
        spanGaps: false,
      })),
    ],
    axes: [
      {
        ...axis,
        size: 24,
        space: 70,
        values: (_, ticks) =>
          ticks.map((tick) =>
            new Date(tick * 1000).toLocaleTimeString(locale(), { hour: "2-digit", minute: "2-digit" }),
          ),
      },
      { ...axis, size: 44, space: 32, values: (_, ticks) => ticks.map(brief) },
    ],
  };
}

function newest(values) {
  for (let at = values.length - 1; at >= Math.max(0, values.length - 3); at -= 1) {
    if (values[at] !== null && values[at] !== undefined) return values[at];
  }
  return null;
}

/** times: unix seconds, rising. lines: [{label, values}], null for nothing. theme: drawn anew when it changes. */
export function Chart({ title, unit, times, lines, theme }) {
  const place = useRef(null);
  const chart = useRef(null);
  const data = [times, ...lines.map((line) => line.values)];
  useEffect(() => {
    const element = place.current;
    const make = () => {
      chart.current?.destroy();
      chart.current = new uPlot(options(element.clientWidth || 300, lines, unit), data, element);
    };
    make();
    const watcher = new ResizeObserver(() => {
      if (chart.current && element.clientWidth && Math.abs(chart.current.width - element.clientWidth) > 1) {
        chart.current.setSize({ width: element.clientWidth, height: HEIGHT });
      }
    });
    watcher.observe(element);
    return () => {
      watcher.disconnect();
      chart.current?.destroy();
      chart.current = null;
    };
  }, [theme, lines.length]);
  useEffect(() => chart.current?.setData(data));
  const values = lines.map((line) => `${line.label ? `${line.label} ` : ""}${brief(newest(line.values))}`);
  return html`<figure class="chart">
    <figcaption>
      <span class="name">${title}</span>
      <span class="now">
        ${lines.map((line, index) => html`<span class=${`key key-${index + 1}`}>${lines.length > 1 && html`<i></i>`}${values[index]}</span>`)}
        ${unit && html`<span class="unit">${unit}</span>`}
      </span>
    </figcaption>
    <div ref=${place} class="plot" role="img" aria-label=${t("{title}, last 15 minutes; now {value} {unit}", { title, value: values.join(", "), unit })}></div>
  </figure>`;
}
