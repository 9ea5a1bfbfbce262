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
// on a phone the menu is wider than the screen: scroll to the current page; scrollIntoView would let the first tab stop
// be the one after it
const menu = document.querySelector(".topbar nav");
const here = menu?.querySelector("[aria-current]");
if (here) {
  const [outer, inner] = [menu, here].map((element) => element.getBoundingClientRect());
  menu.scrollLeft += inner.left + inner.width / 2 - outer.left - outer.width / 2;
}
moreItems();
forms();
keys();
