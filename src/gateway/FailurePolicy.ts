/**
 * What follows on which failure, in one table. Retries stay with the candidate, after a pause; both retries and further
 * candidates draw from the request's one budget of attempts and its one deadline.
 */
import type { FailureAction, FailureKind } from "../sdk/Routes.ts"
import { isHeldBack } from "../sdk/Provider.ts"
import type { AttemptError } from "./Failure.ts"

/** The table; a route can override any line of it. */
export const failurePolicy: Readonly<Record<FailureKind, FailureAction>> = {
  // The request is wrong, and would be wrong elsewhere.
  caller: "final",
  // The gateway's own key is bad; another provider has another key.
  credential: "next",
  // Used up for now: after the provider's own pause, or elsewhere.
  quota: "retry",
  transient: "retry",
  // The provider broke its protocol; that it does so twice in a row is likely enough to go on.
  protocol: "next",
  // Another safety system may judge otherwise, but asking around until one lets a text pass is the operator's choice.
  contentPolicy: "final",
  // Only a model with a larger context window is tried.
  contextLength: "next",
  timeout_connect: "retry",
  timeout_first_token: "next",
  timeout_idle: "next",
  timeout_answer: "next",
  // The deadline spans all attempts.
  timeout_total: "final"
}

/** The line of the table that a failure belongs to. */
export const failureKind = (error: AttemptError): FailureKind => {
  if (error._tag === "ProviderTimeout") return `timeout_${error.phase}`
  return error.timeout === undefined ? error.kind : `timeout_${error.timeout.phase}`
}

/** The code of a stream that was left because it came slower than its route's floor. */
export const slowStream = "slow_stream"

/** Codes of a quota that no pause refills: a spent credit, a billing limit. */
const spent = /insufficient_quota|billing|credit|spend/i

/** What follows on a failure. */
export const actionFor = (
  error: AttemptError,
  overrides: Readonly<Partial<Record<FailureKind, FailureAction>>> | undefined
): FailureAction => {
  const kind = failureKind(error)
  const action = overrides?.[kind] ?? failurePolicy[kind]
  if (error._tag === "ProviderError") {
    // What was refused before it was sent is refused for what this target cannot say; another one may.
    if (error.refused === true) return overrides?.caller === "final" ? "final" : "next"
    if (isHeldBack(error)) return "next"
    // A circuit that is open stays so for longer than a pause between retries.
    if (error.breaker !== undefined) return action === "final" ? "final" : "next"
    // The same model is not likely to be faster the next time.
    if (error.code === slowStream) return action === "final" ? "final" : "next"
    if (kind === "quota" && action === "retry" && spent.test(`${error.code ?? ""} ${error.type ?? ""}`)) return "next"
  }
  return action
}
