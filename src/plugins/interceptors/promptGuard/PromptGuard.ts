/**
 * Rules for prompts: how large they may be, and what they must not hold. Texts are normalised before patterns look at them,
 * so that full-width letters or invisible characters between letters hide nothing.
 */
import { Effect, type Layer, Result } from "effect"
import type { RE2JS } from "re2js"
import type { ChatRequest } from "../../../sdk/Chat.ts"
import { allow, block, type Interceptor, type InterceptorRegistry, type Verdict } from "../../../sdk/Interceptor.ts"
import {
  assemble,
  type InterceptorOptions,
  InvalidInterceptor,
  type LayerError,
  layerOf
} from "../InterceptorOptions.ts"
import { compile } from "../Patterns.ts"
import { requestTexts } from "../Texts.ts"

/** What a prompt must not hold. */
export interface DenyRule {
  /** What the caller reads when it applies. */
  readonly name: string
  /** In RE2's syntax. */
  readonly pattern: string
}

/** The rules. */
export interface PromptGuardOptions extends InterceptorOptions {
  /** The most characters of text in all messages together, in UTF-16 units. */
  readonly maxChars?: number
  readonly maxMessages?: number
  readonly deny?: ReadonlyArray<DenyRule>
  /** Whether patterns tell upper case from lower case; default no. */
  readonly caseSensitive?: boolean
}

/** Characters that are not seen: zero-width spaces and joiners, bidirectional marks, soft hyphens, fillers, tags. */
const invisible = /[\p{Default_Ignorable_Code_Point}\p{Cf}]/gu

const normalised = (text: string): string => text.normalize("NFKC").replace(invisible, "")

/**
 * What the patterns look at of a message: its texts one below the other, and, where there are several, in one piece as
 * well, so that a word cut in two is found.
 */
const readings = (texts: ReadonlyArray<string>): ReadonlyArray<string> =>
  texts.length === 1 ? [normalised(texts[0] ?? "")] : [normalised(texts.join("\n")), normalised(texts.join(""))]

/** Makes the interceptor, without registering it; fails where a pattern cannot be used. It sees requests alone. */
export const make = (options: PromptGuardOptions): Effect.Effect<Interceptor, InvalidInterceptor> =>
  Effect.suspend(() => {
    const rules: Array<{ readonly name: string; readonly pattern: RE2JS }> = []
    for (const [index, { name, pattern }] of (options.deny ?? []).entries()) {
      const compiled = compile(pattern, options.caseSensitive !== true)
      if (Result.isFailure(compiled)) {
        return Effect.fail(
          new InvalidInterceptor({
            name: options.name ?? "prompt-guard",
            option: `deny[${index}]`,
            problem: compiled.failure
          })
        )
      }
      rules.push({ name, pattern: compiled.success })
    }
    const { maxChars = Infinity, maxMessages = Infinity } = options

    const pre = Effect.fnUntraced(function*(request: ChatRequest): Effect.fn.Return<Verdict<never>> {
      if (request.messages.length > maxMessages) return block(`it has more than ${maxMessages} messages`)
      const texts = requestTexts(request)
      let chars = 0
      for (const message of texts) for (const text of message) chars += text.length
      if (chars > maxChars) return block(`it has more than ${maxChars} characters`)
      let since = 0
      for (const message of texts) {
        for (const reading of message.length === 0 ? [] : readings(message)) {
          for (const { name, pattern } of rules) {
            if (pattern.test(reading)) return block(`the rule "${name}" denies it`)
            // A long prompt must not keep other requests waiting until all rules have read it.
            since += reading.length
            if (since < 32_768) continue
            since = 0
            yield* Effect.yieldNow
          }
        }
      }
      return allow
    })
    return Effect.succeed(assemble("prompt-guard", options, { pre }))
  })

/** Registers the interceptor. */
export const layer = (options: PromptGuardOptions): Layer.Layer<never, LayerError, InterceptorRegistry> =>
  layerOf(make(options))
