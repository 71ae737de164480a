// Files that come to the page: dropped anywhere, folders among them, pasted, or chosen.
import { el } from "./dom.js";
import { icon } from "./icons.js";
import { toast } from "./dialogs.js";
import { count, size } from "./format.js";
import { maxFileSize } from "./limits.js";

const MAX_FILES = 10_000; // of one drop
const JUNK = /^(\.DS_Store|Thumbs\.db|desktop\.ini)$/i;

/**
 * Hear of files that come to the page.
 * @param {{ folder: () => string, place: () => string, add: (entries: { file: File, folder: string, filename?: string }[]) => void }} options
 * @returns {{ choose: () => void, chooseFolder: () => void, take: (file: File) => void, element: HTMLElement }}
 */
export function createIntake({ folder, place: placeName, add: enqueue }) {
  const add = async (entries) => {
    const most = await maxFileSize();
    const fit = entries.filter(({ file }) => file.size <= most);
    const large = entries.filter((entry) => !fit.includes(entry)).map(({ file }) => file.name);
    if (large.length) toast(`${large.length === 1 ? `“${large[0]}” is` : `${count(large.length, "file")} are`} too large: this server takes files of up to ${size(most)}.`, { error: true });
    if (fit.length) enqueue(fit);
  };
  const input = el("input", { type: "file", multiple: true, class: "sr", tabindex: -1, "aria-hidden": true, id: "chosen" });
  input.onchange = () => {
    void add([...input.files].map((file) => ({ file, folder: folder() })));
    input.value = "";
  };
  const folderInput = el("input", { type: "file", webkitdirectory: true, class: "sr", tabindex: -1, "aria-hidden": true, id: "chosen-folder" });
  folderInput.onchange = () => {
    const chosen = [...folderInput.files].filter(({ name }) => !JUNK.test(name));
    if (!chosen.length) toast("There was no file in this folder.", { error: true });
    else void add(chosen.map((file) => ({ file, folder: [folder(), ...file.webkitRelativePath.split("/").slice(0, -1)].filter(Boolean).join("/") })));
    folderInput.value = "";
  };
  const place = el("strong");
  const overlay = el("div", { class: "drop", hidden: true, "aria-hidden": true }, el("div", {}, icon("upload"), el("p", {}, "Drop to upload", place)));
  const hasFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
  let depth = 0; // dragenter and dragleave come for each element
  const show = (on) => {
    overlay.hidden = !on;
    if (on) place.textContent = placeName();
  };
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth++;
    show(true);
  });
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  addEventListener("dragleave", (event) => {
    if (hasFiles(event) && --depth <= 0) show(false);
  });
  addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    show(false);
    const target = folder();
    const found = await readDrop(event.dataTransfer);
    if (found.length >= MAX_FILES) toast(`Only the first ${MAX_FILES.toLocaleString("en")} files were taken.`, { error: true });
    if (!found.length) toast("There was no file in what was dropped.", { error: true });
    else void add(found.map(({ file, folder: own }) => ({ file, folder: [target, own].filter(Boolean).join("/") })));
    if (found.length > 20) toast(`${count(found.length, "file")} in the queue.`);
  });
  addEventListener("paste", ({ clipboardData, target }) => {
    const pasted = [...(clipboardData?.files ?? [])];
    if (!pasted.length || target.closest?.("input, textarea")) return;
    const now = new Date().toISOString().replace(/[:T]/g, "-").slice(0, 19);
    // Pictures from the clipboard are all named alike.
    void add(pasted.map((file, index) => ({ file, folder: folder(), ...(/^image\.\w+$/.test(file.name) ? { filename: `Pasted ${now}${index ? ` ${index + 1}` : ""}.${file.name.split(".").pop()}` } : {}) })));
  });
  return { choose: () => input.click(), chooseFolder: () => folderInput.click(), take: (file) => void add([{ file, folder: folder() }]), element: el("div", {}, input, folderInput, overlay) };
}

/** The files of a drop, with the folders that they were in. */
async function readDrop({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean); // before the first await: then they are gone
  if (!entries.length) return [...files].map((file) => ({ file, folder: "" }));
  const found = [];
  for (const entry of entries) await walk(entry, "", found);
  return found;
}

async function walk(entry, folder, found) {
  if (found.length >= MAX_FILES) return;
  if (entry.isFile) {
    if (JUNK.test(entry.name)) return;
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
    if (file) found.push({ file, folder });
    return;
  }
  const reader = entry.createReader();
  const inside = folder ? `${folder}/${entry.name}` : entry.name;
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)).catch(() => []); // 100 at a time
    if (!some.length) return;
    for (const one of some) await walk(one, inside, found);
  }
}
