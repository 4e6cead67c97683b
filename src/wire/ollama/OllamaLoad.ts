/**
 * Requests without anything to answer: `/api/chat` without messages and `/api/generate` without a prompt ask Ollama to load the
 * model, or with `keep_alive: 0` to unload it (https://github.com/ollama/ollama/blob/main/docs/api.md#load-a-model).
 */
import type { Json } from "../Codec.ts"
import { absent, isJson, isList } from "../Json.ts"

/** A request to load a model, or to unload it. */
export interface LoadRequest {
  readonly model: string
  readonly unload: boolean
}

const isEmpty = (value: unknown): boolean => absent(value) || value === "" || (isList(value) && value.length === 0)

/** Durations that are nothing: a number, or a text such as `0s` (Go's `time.ParseDuration`). */
const isZero = (keepAlive: unknown): boolean =>
  keepAlive === 0 || (typeof keepAlive === "string" && /^[+-]?0+(?:\.0*)?(?:[a-zµμ]+)?$/.test(keepAlive))

const loadRequest = (json: unknown, asks: (body: Json) => boolean): LoadRequest | undefined => {
  if (!isJson(json) || asks(json)) return undefined
  const { keep_alive: keepAlive, model } = json
  return typeof model === "string" && model !== "" ? { model, unload: isZero(keepAlive) } : undefined
}

/** Reads a body of `/api/chat` that holds no messages; `undefined` for one that does, or that is wrong. */
export const chatLoad = (json: unknown): LoadRequest | undefined =>
  loadRequest(json, ({ messages }) => !isEmpty(messages))

/**
 * Reads a body of `/api/generate` without a prompt, with images or not; `undefined` for one that has a prompt, or that is
 * wrong.
 */
export const generateLoad = (json: unknown): LoadRequest | undefined =>
  loadRequest(json, ({ prompt, suffix }) => !isEmpty(prompt) || !isEmpty(suffix))
