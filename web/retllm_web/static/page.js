// What every page needs: each part works on the elements that ask for it by a data attribute.
import { forms } from "./forms.js";
import { keys } from "./keys.js";
import { follow } from "./live.js";
import { moreItems } from "./more.js";
import { uploads } from "./upload.js";

for (const root of document.querySelectorAll("[data-live]")) follow(root);
for (const form of document.querySelectorAll("form[data-upload]")) uploads(form);
for (const element of document.querySelectorAll("[data-with-script]")) element.hidden = false;
for (const field of document.querySelectorAll("[data-select]")) field.addEventListener("focus", () => field.select());
// a page that says itself where to begin is right; else begin at the first field that was refused
(document.querySelector("[autofocus]") ?? document.querySelector("[aria-invalid=true]"))?.focus();
// on a phone the menu is wider than the screen: what is open must be seen in it
document.querySelector(".topbar nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
moreItems();
forms();
keys();
