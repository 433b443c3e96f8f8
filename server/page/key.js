// Asks for the API key when the server wants one.

import { byId, say } from "./dom.js";

/** @param {import("./api.js").Api} api */
export function setUpKey(api) {
  const dialog = byId("key-dialog");
  const input = byId("key");
  const problem = byId("key-problem");
  const open = byId("key-open");

  const show = () => {
    if (dialog.open) return;
    say(problem, api.key ? "The server does not take the key that was used." : null);
    input.value = "";
    open.hidden = false;
    dialog.showModal();
  };
  let declined = false; // whoever has closed the dialog isn't asked again by each poll
  api.addEventListener("unauthorized", () => { if (!declined) show(); });
  open.addEventListener("click", show);
  open.hidden = api.key === "";
  byId("key-cancel").addEventListener("click", () => {
    declined = true;
    dialog.close();
  });
  dialog.addEventListener("cancel", () => { declined = true; }); // the Escape key
  byId("key-forget").addEventListener("click", () => {
    declined = true;
    dialog.close();
    api.key = "";
  });

  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const key = input.value.trim();
    if (!key) {
      say(problem, "Type a key.");
      input.focus();
      return;
    }
    try {
      await api.json("v1/models", { key });
    } catch (failure) {
      say(problem, failure.message);
      input.select();
      return;
    }
    dialog.close();
    declined = false;
    api.key = key;
  });
}
