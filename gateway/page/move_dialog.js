// Asks for another name or folder of files, and for the name of a new folder.
import { files } from "./app.js";
import { open } from "./dialogs.js";
import { el } from "./dom.js";
import { count, words } from "./format.js";
import { link } from "./router.js";

/**
 * Ask for a name and a folder, and move the file there.
 * @param {object} file
 * @returns {Promise<object | null>} the file under its new name, null where the person left it as it was
 */
export function askForName(file) {
  const [name, nameField] = field("Name", file.filename, { required: true, maxlength: 255 });
  const [folder, folderField] = field("Folder", file.folder, { maxlength: 1024, placeholder: "none" });
  const act = () => files.move(file, { filename: name.value.trim(), folder: folderOf(folder) }, { ifMatch: file.etag });
  return ask("Rename or move", "Move", [nameField, folderField], act);
}

/**
 * Ask for the folder that files shall go to.
 * @param {object[]} chosen
 * @param {string[]} known folders, as suggestions
 * @returns {Promise<string | null>} null where the person left them where they were
 */
export function askForFolder(chosen, known) {
  const names = el("datalist", { id: "known-folders" }, known.slice(0, 500).map((value) => el("option", { value })));
  const [folder, folderField] = field("Folder", chosen[0].folder, { maxlength: 1024, placeholder: "none: All files", list: "known-folders" });
  return ask(`Move ${count(chosen.length, "file")}`, "Move", [folderField, names], async () => folderOf(folder));
}

/** Ask for the name of a folder below another one, and show it. It exists as soon as it holds a file. */
export async function askForNewFolder(parent) {
  const [name, nameField] = field("Name", "", { required: true, maxlength: 255 });
  const hint = el("p", { class: "soft small", text: "It opens empty, and exists as soon as you put a file into it." });
  const made = await ask("New folder", "Open it", [nameField, hint], async () => folderOf(name));
  if (made) location.hash = link("files", parent ? `${parent}/${made}` : made);
}

const folderOf = (input) => input.value.trim().replace(/^[/]+|[/]+$/g, "");

function field(label, value, properties) {
  const input = el("input", { class: "input", autocomplete: "off", spellcheck: false, ...properties });
  input.value = value;
  return [input, el("label", { class: "field" }, el("span", { text: label }), input)];
}

/** A dialog with fields; it closes when `act` has succeeded, with its value, or with null. */
function ask(title, label, fields, act) {
  return new Promise((resolve) => {
    const failed = el("p", { class: "notice error", role: "alert", hidden: true });
    const button = el("button", { class: "button primary", text: label });
    const cancel = el("button", { class: "button", type: "button", text: "Cancel", onclick: () => dialog.close() });
    const form = el("form", { class: "dialog-form" }, el("h2", { id: "move-title", text: title }), fields, failed, el("div", { class: "dialog-actions" }, cancel, button));
    const dialog = el("dialog", { "aria-labelledby": "move-title" }, form);
    let result = null;
    form.onsubmit = async (event) => {
      event.preventDefault();
      if (button.disabled) return;
      button.disabled = true;
      failed.hidden = true;
      try {
        result = await act();
        dialog.close();
      } catch (error) {
        failed.textContent = words(error);
        failed.hidden = false;
      }
      button.disabled = false;
    };
    dialog.addEventListener("close", () => resolve(result));
    open(dialog);
    const first = form.querySelector("input");
    first.focus();
    first.select();
  });
}
