/**
 * What the stages have to know of a request, whatever it asks for. Resolution, admission and accounting are the same for
 * every operation; what differs between operations is described here, once for each.
 */
import type { EndpointClass } from "../sdk/Breakers.ts"
import type { Fallback } from "../sdk/Chat.ts"
import type { Capability, ModelInfo, Prices } from "../sdk/Model.ts"
import type { Operation as OperationName } from "../sdk/Operation.ts"
import type { Provider } from "../sdk/Provider.ts"
import type { Usage } from "../sdk/Usage.ts"

/** Whose breaker each operation's calls belong to. */
export const endpointOf: { readonly [Name in OperationName]: EndpointClass } = {
  chat: "chat",
  embed: "embeddings",
  image: "images",
  transcribe: "audio",
  speak: "audio",
  video: "video",
  realtime: "realtime",
  batch: "other"
}

/** What a request of any operation says. */
export interface Asked {
  /** A model or a route. */
  readonly model: string
  readonly fallback?: Fallback
}

/** What one call can consume at most: when it is given up early, and when it answers. */
export interface Consumption {
  readonly read: Usage
  readonly whole: Usage
}

/** One operation. Its functions are pure and take time linear in the request. */
export interface Operation<Request extends Asked> {
  readonly name: OperationName
  /** The capabilities that a request needs of a model, each once. */
  readonly requirements: (request: Request) => ReadonlyArray<Capability>
  /** What a provider cannot do, in the words of capabilities, where it has no call for this operation. */
  readonly lacks: (provider: Provider, streamed: boolean) => Capability | undefined
  /** The prompt's tokens by estimate. */
  readonly inputTokens: (request: Request) => number
  /** The most tokens that the prompt can come to. */
  readonly mostInputTokens: (request: Request) => number
  /** What the request allows the answer to have, tokens; undefined where it does not say. */
  readonly outputTokens: (request: Request) => number | undefined
  /** The longest answer that a model may give, tokens. */
  readonly longestAnswer: (request: Request, model: ModelInfo) => number
  /**
   * What a call to a model will consume, by estimate, for a prompt and an answer of so many tokens. It ranks models by their
   * cost, and a model whose prices say nothing of it (`isPriced`) is one without a known price. Absent: those tokens alone.
   */
  readonly expected?: (request: Request, prices: Prices, inputTokens: number, outputTokens: number) => Usage
  /** The dearest that a call can be at these prices, for a prompt and an answer of so many tokens. */
  readonly dearest: (request: Request, prices: Prices, inputTokens: number, outputTokens: number) => Consumption
  /** What a call has consumed that was given up while its provider worked on it, by estimate. */
  readonly givenUp: (request: Request) => Usage
  /**
   * Set where answers of different models cannot stand in for each other, such as vectors of different spaces: of a route only
   * the models that are the same as the first one serve. What the caller names as fallback is the caller's to know.
   */
  readonly keepsModel?: boolean
  /** Set where a request may last longer than its total timer says: how long it may keep its place and its money, ms. */
  readonly lastsMs?: number
  /** Set where each request is a part of another one, which has a place for both. */
  readonly isPart?: boolean
  /** Whether a request holds what only the account of one provider can read, so that no other one may serve it. */
  readonly bindsAccount?: (request: Request) => boolean
}
