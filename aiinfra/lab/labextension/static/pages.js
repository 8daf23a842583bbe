// What JupyterLab lacks for these pages, saved ones too, whose scripts and styles it drops until they are trusted:
//   - an <img> gets the `alt` of its picture's metadata, as nbconvert has it: JupyterLab 4 leaves it empty;
//   - looks.css: lines of prose that can be read, and figures turned dark in the dark theme.
// JupyterLab loads extensions through module federation: `init` brings the modules that it shares, `get` asks for ours.
(() => {
  const looks = new URL("looks.css", document.currentScript.src).href;
  let shared;

  const moduleOf = async name => {
    const [version] = Object.values(shared[name]);
    return (await version.get())();
  };

  const giveWords = (renderer, model) => {
    const words = model.metadata["image/png"]?.alt;
    const image = renderer.node.querySelector("img");
    if (image && typeof words === "string") image.alt = words;
  };

  const wearLooks = () => {
    const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet", href: looks });
    document.head.append(sheet);
  };

  const speakPictures = registry => {
    const usual = registry.getFactory("image/png");
    const createRenderer = options => {
      const renderer = usual.createRenderer(options);
      const draw = renderer.renderModel.bind(renderer);
      renderer.renderModel = async (model, ...rest) => {
        await draw(model, ...rest);
        giveWords(renderer, model);
      };
      return renderer;
    };
    registry.addFactory({ ...usual, mimeTypes: ["image/png"], createRenderer });
  };

  const extension = async () => {
    const { IRenderMimeRegistry } = await moduleOf("@jupyterlab/rendermime");
    const activate = (app, registry) => { wearLooks(); speakPictures(registry); };
    const plugin = { id: "aiinfra-pages:plugin", autoStart: true, requires: [IRenderMimeRegistry], activate };
    return () => ({ __esModule: true, default: plugin });
  };

  window._JUPYTERLAB ??= {};
  window._JUPYTERLAB["aiinfra-pages"] = {
    init: scope => { shared = scope; },
    get: name => name === "./extension" ? extension() : Promise.reject(new Error(`aiinfra-pages has no ${name}`)),
  };
})();
