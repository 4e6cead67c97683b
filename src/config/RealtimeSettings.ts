/** What a configuration says of realtime sessions, as the gateway and its server take it. */
import type { RealtimeOptions } from "../gateway/Gateway.ts"
import type { RealtimeRouteOptions } from "../server/realtime/RealtimeRoutes.ts"
import type { GatewayConfig } from "./GatewayConfig.ts"

/** How the gateway bounds sessions. */
export const sessions = ({ realtime }: GatewayConfig): RealtimeOptions => ({
  maxSessionMs: realtime.maxSession,
  idleMs: realtime.idleTimeout,
  pingMs: realtime.pingInterval,
  maxFrameBytes: realtime.maxFrame
})

/** What the server's routes need. */
export const routes = ({ realtime }: GatewayConfig): RealtimeRouteOptions => ({
  maxFrameBytes: realtime.maxFrame,
  ...(realtime.secret === undefined ? {} : { secret: realtime.secret })
})
