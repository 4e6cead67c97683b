/** The typed client, `llm-gateway/client`, and the models of `effect/ai` over it. It holds no part of the server. */
export * from "./GatewayClient.ts"
export * as GatewayEmbeddingModel from "./GatewayEmbeddingModel.ts"
export * as GatewayLanguageModel from "./GatewayLanguageModel.ts"
