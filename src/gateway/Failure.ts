/** How a failed attempt looks to the caller. The one place where a provider's error becomes the gateway's. */
import { fail, type GatewayError, ProviderFailed, ProviderTimeout, ValidationError } from "../sdk/GatewayError.ts"
import { credentialsExhausted } from "../sdk/Outbound.ts"
import type { ProviderError } from "../sdk/Provider.ts"
import { timedOut } from "./Timers.ts"

/** What an attempt fails with: the provider's error, or a timer of the gateway's own. */
export type AttemptError = ProviderError | ProviderTimeout

/** Upstream texts are cut at this length. */
const maxMessage = 2000

const bounded = (text: string): string => text.length > maxMessage ? `${text.slice(0, maxMessage)}…` : text

const credentialMessage = ({ code, provider }: ProviderError) =>
  code === credentialsExhausted
    ? `the provider "${provider}" refused all of the gateway's keys (${credentialsExhausted}); the operator has to renew them`
    : `the provider "${provider}" refused the gateway's own credentials; the operator has to renew them`

/** Which attempt it was: its place among the request's attempts, from 1, and its model. */
export interface FailedAttempt {
  readonly ordinal: number
  readonly model: string
}

const atAttempt = (
  { limitMs, message, phase, provider }: ProviderTimeout,
  attempt: FailedAttempt | undefined
): ProviderTimeout =>
  attempt === undefined
    ? new ProviderTimeout({ message, provider, phase, limitMs })
    : new ProviderTimeout({
      message: `${message}; attempt ${attempt.ordinal}, with ${attempt.model}`,
      provider,
      phase,
      limitMs,
      attempt: attempt.ordinal,
      model: attempt.model
    })

/** The caller's view of a failed attempt. */
export const gatewayError = (error: AttemptError, attempt?: FailedAttempt): GatewayError => {
  if (error._tag === "ProviderTimeout") return fail(atAttempt(error, attempt))
  // The transport's timer is the same to a caller as the pipeline's own.
  if (error.timeout !== undefined) {
    return fail(atAttempt(timedOut(error.provider, error.timeout.phase, error.timeout.limitMs), attempt))
  }
  if (error.refused === true) {
    return fail(
      new ValidationError({
        message: error.message,
        ...(error.field === undefined ? {} : { field: error.field })
      })
    )
  }
  return fail(
    new ProviderFailed({
      // An upstream's words about the gateway's own key may quote a part of it.
      message: error.kind === "credential" ? credentialMessage(error) : bounded(error.message),
      kind: error.kind,
      provider: error.provider,
      ...(error.status === undefined ? {} : { upstreamStatus: error.status }),
      // This code is the gateway's own.
      ...(error.code === undefined || (error.kind === "credential" && error.code !== credentialsExhausted)
        ? {}
        : { upstreamCode: error.code }),
      ...(error.type === undefined || error.kind === "credential" ? {} : { upstreamType: error.type }),
      ...(error.field === undefined ? {} : { field: error.field }),
      ...(error.retryAfterMs === undefined ? {} : { retryAfterMs: error.retryAfterMs })
    })
  )
}
