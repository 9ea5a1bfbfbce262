// Which drops of files are for the search form: those of a single picture. All others are for the upload.
import { PICTURES } from "./file_table.js";

const hasUpload = () => document.querySelector("form[data-upload]") !== null;

// Return whether a drag or drop of files is for the search form that it is over, and not for the upload of its page.
export function isForSearch(event) {
  return Boolean(event.target.closest?.("form[data-search]")) && (!hasUpload() || isOnePicture(event.dataTransfer));
}

// Before the drop only the types are known.
export function isOnePicture(transfer) {
  const [item, ...more] = [...transfer.items].filter(({ kind }) => kind === "file");
  if (!item || more.length || item.webkitGetAsEntry?.()?.isDirectory) return false;
  // browsers have no type for some accepted formats, such as raw files of cameras
  const name = item.getAsFile()?.name.toLowerCase() ?? "";
  return item.type.startsWith("image/") || PICTURES.some((suffix) => name.endsWith(suffix));
}
