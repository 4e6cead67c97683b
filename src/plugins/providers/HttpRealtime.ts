/** Realtime sessions over WebSockets: connect through Outbound, and read a refusal by the chat codec of the same wire. */
import { Effect, type Scope } from "effect"
import type { Provider, ProviderError } from "../../sdk/Provider.ts"
import type { RealtimeProtocol, RealtimeUpstream } from "../../sdk/Realtime.ts"
import { answerError, type HttpChatEndpoint } from "./HttpChat.ts"

/** The provider's `realtime`, by what is known of its chat endpoint. */
export const realtime = (
  endpoint: Pick<HttpChatEndpoint, "codec" | "errorOf" | "upstream">,
  protocol: RealtimeProtocol,
  path: string
): NonNullable<Provider["realtime"]> =>
  Effect.fnUntraced(
    function*({ connectTimeout, force, maxFrameBytes, model, request }): Effect.fn.Return<
      RealtimeUpstream,
      ProviderError,
      Scope.Scope
    > {
      const connection = yield* endpoint.upstream.connect({
        path: `${path}?model=${encodeURIComponent(model.model)}`,
        endpoint: "realtime",
        connectTimeout,
        maxFrameBytes,
        ...(request.headers === undefined ? {} : { headers: request.headers }),
        ...(force === true ? { force: true } : {})
      })
      const { channel } = connection
      return channel === undefined
        ? yield* answerError(endpoint, connection, connection.body)
        : { channel, protocol }
    }
  )
