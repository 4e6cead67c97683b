/**
 * The one name that a model goes by at its provider, whatever spelling was used to ask for it, list it or approve it.
 * Only Ollama has two spellings of one model; every other kind takes names as they are.
 */

const latest = ":latest"

/**
 * A model's name with what its provider would add to it. Ollama reads a name without a tag as `:latest`, and lists it
 * so; a tag is what follows a colon after the last slash (`host:5000/team/model:tag`).
 * https://github.com/ollama/ollama/blob/main/docs/api.md#model-names
 */
export const canonicalName = (kind: string, model: string): string =>
  kind === "ollama" && model !== "" && model.indexOf(":", model.lastIndexOf("/") + 1) < 0 ? `${model}${latest}` : model

/** Whether an approval covers a canonical id, in either spelling: `ollama::llama3` approves `ollama::llama3:latest`. */
export const isApproved = (allows: (id: string) => boolean, kind: string, id: string): boolean =>
  allows(id) || (kind === "ollama" && id.endsWith(latest) && allows(id.slice(0, -latest.length)))
