/** The gateway's HTTP face: `llm-gateway/server`. */
export * as GatewayServer from "./GatewayServer.ts"
