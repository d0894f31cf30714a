// Networks that run in the page: each is a script of numbers in _static/networks, which runs in a worker.

// The folder of the book's pages; a notebook outside of them has none.
const rootOf = () => document.documentElement.dataset.content_root;

function script(name) {
  window.segNetworks = window.segNetworks || {waiting: {}};
  const {waiting} = window.segNetworks;
  return waiting[name] = waiting[name] || new Promise((done, fail) => {
    const root = rootOf(), tag = document.createElement("script");
    if (root === undefined || !window.Worker) {
      fail(new Error(root === undefined ? "no book around" : "no workers"));
      return;
    }
    tag.src = `${root}_static/networks/${name}.js`;
    tag.onload = () => done(window.segNetworks[name]);
    tag.onerror = () => fail(new Error(`${name} is not there`));
    document.head.append(tag);
  });
}

function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes.buffer;
}

// One worker for the networks of a figure. load(name) gives a manifest; run(name, inputs, {keep, cuts}) gives
// {outputs, kept}, or null when a newer run of that network came.
export function liveNetworks() {
  let worker = null, runs = 0;
  const open = new Map(), loaded = {};
  const start = (runtime) => {
    worker = new Worker(URL.createObjectURL(new Blob([runtime], {type: "text/javascript"})));
    worker.onmessage = ({data}) => {
      const [done, fail] = open.get(data.id);
      open.delete(data.id);
      if (data.error) fail(new Error(data.error));
      else done(data.stopped ? null : data);
    };
  };
  const load = (name) => loaded[name] = loaded[name] || (async () => {
    const [runtime, {manifest, numbers}] = await Promise.all([script("runtime"), script(name)]);
    if (!worker) start(runtime);
    worker.postMessage({load: name, manifest, numbers: bytesOf(numbers)});
    return manifest;
  })();
  const run = async (name, inputs, {keep = [], cuts = []} = {}) => {
    await load(name);
    return new Promise((done, fail) => {
      open.set(++runs, [done, fail]);
      worker.postMessage({run: name, id: runs, inputs, keep, cuts});
    });
  };
  return {load, run};
}

const within = (layer) => (step) => step.layer === layer || step.layer.startsWith(`${layer}.`);

// The step whose result is what a layer gives, and the one whose result is what it takes.
export const outputStep = (manifest, layer) => manifest.steps.findLastIndex(within(layer));
export const inputStep = (manifest, layer) => manifest.steps.find(within(layer)).args[0].step;
