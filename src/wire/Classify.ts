/**
 * One reading of upstream errors for all wires: what kind of failure it is (status, code, type and text in one table), and
 * which of its words may be shown. Used for error answers and for errors inside a stream alike, so that nothing above the
 * wires ever needs to know a provider's spelling.
 */
import type { ProviderErrorKind } from "../sdk/GatewayError.ts"

/** What an upstream told of an error. */
export interface ErrorFacts {
  /** The HTTP status, or one that the error body names; absent for an error inside a stream without one. */
  readonly status?: number
  readonly code?: string
  readonly type?: string
  readonly message: string
}

// ---------------------------------------------------------------------------------------------------------------------
// Codes and types, in lower case
// ---------------------------------------------------------------------------------------------------------------------

/** Words that settle the matter whatever the status is. */
const decisive: ReadonlyMap<string, ProviderErrorKind> = new Map([
  ["context_length_exceeded", "contextLength"],
  ["context_window_exceeded", "contextLength"],
  ["model_context_window_exceeded", "contextLength"],
  // llama.cpp's server
  ["exceed_context_size_error", "contextLength"],
  ["content_filter", "contentPolicy"],
  ["content_policy_violation", "contentPolicy"],
  ["responsibleaipolicyviolation", "contentPolicy"],
  ["moderation_blocked", "contentPolicy"],
  // OpenAI: "your prompt was flagged as potentially violating our usage policy"
  ["invalid_prompt", "contentPolicy"],
  ["insufficient_quota", "quota"],
  ["billing_hard_limit_reached", "quota"],
  ["billing_not_active", "quota"],
  ["rate_limit_exceeded", "quota"],
  ["rate_limit_error", "quota"],
  ["ratelimitreached", "quota"],
  ["invalid_api_key", "credential"],
  ["authentication_error", "credential"],
  ["account_deactivated", "credential"]
])

/** Words that count where the status says nothing: errors inside a stream, or inside an answer of status 200. */
const indicative: ReadonlyMap<string, ProviderErrorKind> = new Map([
  ["tokens", "quota"],
  ["requests", "quota"],
  ["too_many_requests", "quota"],
  ["quota_exceeded", "quota"],
  ["resource_exhausted", "quota"],
  ["permission_error", "credential"],
  ["permission_denied", "credential"],
  ["billing_error", "credential"],
  ["unauthorized", "credential"],
  ["model_not_found", "caller"],
  ["not_found_error", "caller"],
  ["invalid_request_error", "caller"],
  ["invalid_request", "caller"],
  ["bad_request", "caller"],
  ["badrequesterror", "caller"],
  ["request_too_large", "caller"],
  ["unsupported_parameter", "caller"]
])

/** Quota that no wait brings back: the account must be paid for, or its limit raised. */
const exhausted: ReadonlySet<string> = new Set([
  "insufficient_quota",
  "billing_hard_limit_reached",
  "billing_not_active"
])

// ---------------------------------------------------------------------------------------------------------------------
// Texts
// ---------------------------------------------------------------------------------------------------------------------

const contextTexts =
  /maximum context length|context length exceeded|exceeds? the (?:model'?s )?(?:maximum |available )?context|context window|prompt is too long|input is too long|reduce the length of the (?:messages|prompt)|too many input tokens/i
const policyTexts =
  /content management policy|content[ _]polic(?:y|ies)[ _]violation|violat\w* [^.]{0,60}(?:content|usage|safety) polic|safety system|(?:input|prompt|content|request) (?:was|were|has been) (?:flagged|blocked)/i
const credentialTexts =
  /(?:invalid|incorrect) api key|api key (?:is )?(?:not valid|invalid|expired)|credit balance is too low/i

/** Statuses under which providers report what only the text tells apart. */
const textual = (status: number | undefined): boolean =>
  status === undefined || status < 300 || status === 400 || status === 403 || status === 413 || status === 422

const byStatus = (status: number): ProviderErrorKind | undefined => {
  switch (status) {
    case 401:
    case 402:
    case 403:
      return "credential"
    case 408:
    case 409:
    case 425:
      return "transient"
    case 429:
      return "quota"
    default:
      if (status >= 500) return "transient"
      if (status >= 400) return "caller"
      return status >= 300 ? "protocol" : undefined
  }
}

/**
 * What kind of failure an upstream error is. In order: codes that mean one thing everywhere; texts about the context
 * window, the content policy or the key, where the status leaves room for them (a 429 about too many tokens a minute is
 * quota, however large the prompt); the status; codes and types; and `transient`, since an error that nobody can read
 * is at least not known to be the caller's.
 */
export const classify = (facts: ErrorFacts): ProviderErrorKind => {
  const code = facts.code?.toLowerCase() ?? ""
  const type = facts.type?.toLowerCase() ?? ""
  const sure = decisive.get(code) ?? decisive.get(type)
  if (sure !== undefined) return sure
  if (textual(facts.status)) {
    if (contextTexts.test(facts.message)) return "contextLength"
    if (policyTexts.test(facts.message)) return "contentPolicy"
    if (credentialTexts.test(facts.message)) return "credential"
  }
  return (facts.status === undefined ? undefined : byStatus(facts.status)) ??
    indicative.get(code) ?? indicative.get(type) ?? "transient"
}

/**
 * Whether a quota failure is one that waiting does not mend (`insufficient_quota` and its kin). Such a failure carries
 * no `retryAfterMs`; its `code` or `type` stays readable for whoever decides on retries.
 */
export const isExhausted = (facts: ErrorFacts): boolean =>
  exhausted.has(facts.code?.toLowerCase() ?? "") || exhausted.has(facts.type?.toLowerCase() ?? "")

// ---------------------------------------------------------------------------------------------------------------------
// Words
// ---------------------------------------------------------------------------------------------------------------------

const maxMessage = 400
const secrets = /\b(?:sk|pk|rk|gsk|xai|nvapi|key)[-_][\w-]{12,}|\bBearer\s+[\w.~+/=-]{8,}/gi
// eslint-disable-next-line no-control-regex -- control characters are what is taken out
const blank = /[\s\u0000-\u001f\u007f]+/g
const htmlTitle = /<title[^>]{0,100}>([^<]{1,200})<\/title>/i

/** An upstream's words made fit to show: one line, at most 400 characters, and nothing in it that looks like a key. */
export const shown = (text: string): string => {
  const line = text.slice(0, 4 * maxMessage).replace(blank, " ").trim().replace(secrets, "[redacted]")
  return line.length > maxMessage ? `${line.slice(0, maxMessage)}…` : line
}

/** Describes an error body that is not JSON: an HTML page by its title, other text as it is, nothing by the status. */
export const shownBody = (status: number, body: string): string => {
  const start = body.slice(0, 4096).trim()
  const line = shown(start)
  if (line === "") return `the provider answered ${status} without a body`
  if (!start.startsWith("<")) return line
  const title = htmlTitle.exec(start)?.[1]
  return `the provider answered ${status} with an HTML page${title === undefined ? "" : `: ${shown(title)}`}`
}
