// Asks for another name or folder of a file, and moves it.
import { files } from "./app.js";
import { open } from "./dialogs.js";
import { el } from "./dom.js";
import { words } from "./format.js";

/**
 * @param {object} file
 * @returns {Promise<object | null>} the file under its new name, null where the person left it as it was
 */
export function askForName(file) {
  return new Promise((resolve) => {
    const field = (label, value, properties) => {
      const input = el("input", { class: "input", autocomplete: "off", spellcheck: false, ...properties });
      input.value = value;
      return [input, el("label", { class: "field" }, el("span", { text: label }), input)];
    };
    const [name, nameField] = field("Name", file.filename, { required: true, maxlength: 255 });
    const [folder, folderField] = field("Folder", file.folder, { maxlength: 1024, placeholder: "none" });
    const failed = el("p", { class: "notice error", role: "alert", hidden: true });
    const act = el("button", { class: "button primary", text: "Move" });
    const cancel = el("button", { class: "button", type: "button", text: "Cancel", onclick: () => dialog.close() });
    const form = el("form", { class: "dialog-form" }, el("h2", { id: "move-title", text: "Rename or move" }), nameField, folderField, failed, el("div", { class: "dialog-actions" }, cancel, act));
    const dialog = el("dialog", { "aria-labelledby": "move-title" }, form);
    let moved = null;
    form.onsubmit = async (event) => {
      event.preventDefault();
      if (act.disabled) return;
      act.disabled = true;
      failed.hidden = true;
      try {
        moved = await files.move(file, { filename: name.value.trim(), folder: folder.value.trim().replace(/^[/]+|[/]+$/g, "") }, { ifMatch: file.etag });
        dialog.close();
      } catch (error) {
        failed.textContent = words(error);
        failed.hidden = false;
      }
      act.disabled = false;
    };
    dialog.addEventListener("close", () => resolve(moved));
    open(dialog);
    name.focus();
  });
}
