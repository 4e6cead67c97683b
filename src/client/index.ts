/** The typed client: `llm-gateway/client`. It holds no part of the server. */
export * from "./GatewayClient.ts"
