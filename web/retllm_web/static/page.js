// Loaded by every page. Each module handles the elements that have its data attribute.
import { forms } from "./forms.js";
import { keys } from "./keys.js";
import { follow } from "./live.js";
import { moreItems } from "./more.js";
import { uploads } from "./upload_form.js";

for (const root of document.querySelectorAll("[data-live]")) follow(root);
for (const form of document.querySelectorAll("form[data-upload]")) uploads(form);
for (const element of document.querySelectorAll("[data-with-script]")) element.hidden = false;
for (const field of document.querySelectorAll("[data-select]")) field.addEventListener("focus", () => field.select());
// focus the element with autofocus, else the first invalid field
(document.querySelector("[autofocus]") ?? document.querySelector("[aria-invalid=true]"))?.focus();
// on a phone the menu is wider than the screen: scroll to the current page
document.querySelector(".topbar nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
moreItems();
forms();
keys();
