// The icons, drawn on a grid of 24.

const PATHS = {
  brand: "M4 6h16v12H4z M4 12h16 M12 6v12 M8 18v3 M16 18v3 M9 3l3 3 3-3",
  files: "M4 5h6l2 2h8v12H4z",
  folder: "M3.5 6h6l2 2h9v10.5h-17z",
  folderUp: "M3.5 6h6l2 2h9v10.5h-17z M12 16.5v-5 M9.5 13.5l2.5-2.5 2.5 2.5",
  plus: "M12 5.5v13 M5.5 12h13",
  sockets: "M12 12v.01 M8.5 15.5a5 5 0 0 1 0-7 M15.5 8.5a5 5 0 0 1 0 7 M5.5 18.5a9.2 9.2 0 0 1 0-13 M18.5 5.5a9.2 9.2 0 0 1 0 13",
  live: "M12 10a2 2 0 1 1 0 4 2 2 0 0 1 0-4z M7.8 16.2a6 6 0 0 1 0-8.4 M16.2 7.8a6 6 0 0 1 0 8.4 M5 19a10 10 0 0 1 0-14 M19 5a10 10 0 0 1 0 14",
  screen: "M3.5 5h17v11h-17z M9 19.5h6 M12 16v3.5",
  stop: "M7 7h10v10H7z",
  rewind: "M18.5 6v12L9.5 12z M6 6v12",
  volume: "M4 9.5v5h3.5L12 18.5v-13L7.5 9.5z M15.5 9a4 4 0 0 1 0 6 M18 6.5a8 8 0 0 1 0 11",
  muted: "M4 9.5v5h3.5L12 18.5v-13L7.5 9.5z M15.5 9.5l5 5 M20.5 9.5l-5 5",
  full: "M4.5 9V4.5H9 M15 4.5h4.5V9 M19.5 15v4.5H15 M9 19.5H4.5V15",
  operations: "M3 12h4l2.5-7 5 14 2.5-7h4",
  book: "M12 6.5C10 5 7 4.7 4 5v13.5c3-.3 6 0 8 1.5 2-1.5 5-1.8 8-1.5V5c-3-.3-6 0-8 1.5z M12 6.5V20",
  upload: "M12 16V5 M7.5 9.5 12 5l4.5 4.5 M5 19h14",
  download: "M12 5v11 M7.5 11.5 12 16l4.5-4.5 M5 19.5h14",
  search: "M10.5 4.5a6 6 0 1 1 0 12 6 6 0 0 1 0-12z M15 15l4.5 4.5",
  list: "M8 6h12 M8 12h12 M8 18h12 M4 6h.01 M4 12h.01 M4 18h.01",
  grid: "M4.5 4.5h6v6h-6z M13.5 4.5h6v6h-6z M4.5 13.5h6v6h-6z M13.5 13.5h6v6h-6z",
  trash: "M4.5 6.5h15 M9 6.5V4h6v2.5 M6.5 6.5l1 13.5h9l1-13.5 M10 10.5v6 M14 10.5v6",
  info: "M12 3.5a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17z M12 11v5 M12 8v.01",
  close: "M6 6l12 12 M18 6 6 18",
  check: "M5 12.5l4.5 4.5L19 7.5",
  play: "M8 5.5v13l10.5-6.5z",
  pause: "M8.5 5.5v13 M15.5 5.5v13",
  retry: "M19 12a7 7 0 1 1-2.2-5.1 M19 4v4h-4",
  next: "M9.5 6l6 6-6 6",
  previous: "M14.5 6l-6 6 6 6",
  down: "M6 9.5l6 6 6-6",
  link: "M10 14a4 4 0 0 0 5.7 0l3-3a4 4 0 0 0-5.7-5.7l-1 1 M14 10a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.7l1-1",
  share: "M12 15V4.5 M8 8l4-4 4 4 M7 11.5H5v8.5h14v-8.5h-2",
  tab: "M10 6H5v13h13v-5 M13.5 4.5h6v6 M19 5l-8 8",
  copy: "M8.5 8.5h11v11h-11z M15.5 8.5v-4h-11v11h4",
  pip: "M3.5 5.5h17v13h-17z M12.5 12h5v3.5h-5z",
  rename: "M5 19l1-4.5L16.5 4l3.5 3.5L9.5 18z M14 6.5l3.5 3.5",
  camera: "M3.5 7.5h4l1.5-2.5h6l1.5 2.5h4v11.5h-17z M12 9.5a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7z",
  ask: "M12 4.5v8 M8.5 9.5l3.5 3.5 3.5-3.5 M4 13v6.5h16V13h-4l-1.5 2.5h-5L8 13z",
  key: "M8 8.5a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7z M11.5 12h9 M17 12v3 M20 12v2",
  sun: "M12 8.5a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7z M12 3v2 M12 19v2 M3 12h2 M19 12h2 M5.6 5.6 7 7 M17 17l1.4 1.4 M5.6 18.4 7 17 M17 7l1.4-1.4",
  moon: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  send: "M4 12l16-7.5-5 15.5-3.5-6z M11.5 14 20 4.5",
  video: "M3.5 6.5h12v11h-12z M15.5 10.5l5-3v9l-5-3",
  audio: "M9 17.5V6l10-2v11.5 M6.5 15a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5z M16.5 13a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5z",
  image: "M4 5h16v14H4z M8.5 8a1.5 1.5 0 1 1 0 3 1.5 1.5 0 0 1 0-3z M4 17l5-4 3.5 2.5L16 12l4 4",
  text: "M6 3.5h8l4 4v13H6z M14 3.5v4h4 M9 12h6 M9 15.5h6",
  other: "M6 3.5h8l4 4v13H6z M14 3.5v4h4",
  more: "M12 6v.01 M12 12v.01 M12 18v.01",
  warning: "M12 4 2.8 19.5h18.4z M12 10v4.5 M12 17v.01",
};
const SVG = "http://www.w3.org/2000/svg";

/** An icon that screen readers do not mention: what it stands on has a name. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
