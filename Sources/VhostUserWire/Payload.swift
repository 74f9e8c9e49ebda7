// What all payloads have in common: a decoder that throws an error with the structure's name, and an encoder. Messages
// and answers are put together from them here.

/// What follows a header (specification: "Payload").
public protocol WirePayload: Equatable, Sendable {
    /// Decodes all bytes of a payload. Throws an error that names the structure when their number or a value is wrong.
    init(decoding payload: [UInt8]) throws(WireError)
    /// The payload's bytes, integers in the machine's byte order.
    var encoded: [UInt8] { get }
}

extension WirePayload {
    /// A whole message of a front-end: header and payload. `needsReply` is valid only when REPLY_ACK was agreed on.
    public func message(_ request: FrontendRequest, needsReply: Bool = false) -> [UInt8] {
        let payload = encoded
        return MessageHeader(request, payloadBytes: payload.count, needsReply: needsReply).encoded + payload
    }
    /// A whole message of a back-end: header and payload. `needsReply` is valid only when REPLY_ACK was agreed on.
    public func message(_ request: BackendRequest, needsReply: Bool = false) -> [UInt8] {
        let payload = encoded
        return MessageHeader(request, payloadBytes: payload.count, needsReply: needsReply).encoded + payload
    }
    /// A whole answer to the message with this header: the same code, the reply bit, and this payload.
    public func reply(to header: MessageHeader) -> [UInt8] {
        let payload = encoded
        return header.reply(payloadBytes: payload.count).encoded + payload
    }
}

extension MessageHeader {
    /// A whole message of a front-end without payload.
    public static func bare(_ request: FrontendRequest, needsReply: Bool = false) -> [UInt8] {
        MessageHeader(request, payloadBytes: 0, needsReply: needsReply).encoded
    }
    /// A whole message of a back-end without payload.
    public static func bare(_ request: BackendRequest, needsReply: Bool = false) -> [UInt8] {
        MessageHeader(request, payloadBytes: 0, needsReply: needsReply).encoded
    }
}

/// One 64-bit number: features, counts, statuses, acknowledgements (0 is success); "u64" in the specification.
@frozen public struct WireNumber: WirePayload, BitwiseCopyable {
    /// Bytes of the payload.
    public static let bytes = 8
    /// The number; its meaning is the request's.
    public let value: UInt64

    /// A payload that is to be sent.
    public init(_ value: UInt64) { self.value = value }

    /// Throws `.wrongSize` unless the payload has exactly 8 bytes.
    public init(decoding payload: [UInt8]) throws(WireError) {
        guard payload.count == Self.bytes, let value = payload.native(UInt64.self, at: 0) else {
            throw .wrongSize(.number, bytes: payload.count)
        }
        self.value = value
    }

    /// The 8 bytes of the number.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: value)
        return bytes
    }
}
