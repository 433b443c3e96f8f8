// Puts the page together.

import { Api } from "./api.js";
import { byId } from "./dom.js";
import { count, plural } from "./format.js";
import { setUpKey } from "./key.js";
import { Live } from "./live.js";
import { Playground } from "./playground.js";

const api = new Api();
setUpKey(api);
const playground = new Playground(api);
const live = new Live(api);

async function learnModel() {
  const model = (await api.json("v1/models")).data[0];
  playground.use(model);
  byId("model").textContent = `${model.id} · ${plural(model.num_loops, "loop")} · ${count(model.max_model_len)} tokens of context`;
  document.title = `${model.id} · loopserve`;
}

live.addEventListener("up", () => learnModel().catch((failure) => { byId("model").textContent = failure.message; }));
live.poller.poke();
