// All payloads are judged and written the same way: exactly the bytes that the structure has, else an error with its
// name.

/// What follows a header.
public protocol WirePayload: Equatable, Sendable {
    /// From all bytes of a payload.
    init(decoding payload: [UInt8]) throws(WireError)
    var encoded: [UInt8] { get }
}

extension WirePayload {
    /// A whole message.
    public func message(_ request: FrontendRequest, needsReply: Bool = false) -> [UInt8] {
        let payload = encoded
        return MessageHeader(request, payloadBytes: payload.count, needsReply: needsReply).encoded + payload
    }
    /// A whole message of a back-end.
    public func message(_ request: BackendRequest, needsReply: Bool = false) -> [UInt8] {
        let payload = encoded
        return MessageHeader(request, payloadBytes: payload.count, needsReply: needsReply).encoded + payload
    }
    /// A whole answer to the message with this header.
    public func reply(to header: MessageHeader) -> [UInt8] {
        let payload = encoded
        return header.reply(payloadBytes: payload.count).encoded + payload
    }
}

extension MessageHeader {
    /// A whole message without payload.
    public static func bare(_ request: FrontendRequest, needsReply: Bool = false) -> [UInt8] {
        MessageHeader(request, payloadBytes: 0, needsReply: needsReply).encoded
    }
    public static func bare(_ request: BackendRequest, needsReply: Bool = false) -> [UInt8] {
        MessageHeader(request, payloadBytes: 0, needsReply: needsReply).encoded
    }
}

/// One 64-bit number: features, counts, statuses, acknowledgements (0 is success).
@frozen public struct WireNumber: WirePayload, BitwiseCopyable {
    public static let bytes = 8
    public let value: UInt64

    public init(_ value: UInt64) { self.value = value }

    public init(decoding payload: [UInt8]) throws(WireError) {
        guard payload.count == Self.bytes, let value = payload.native(UInt64.self, at: 0) else {
            throw .wrongSize(.number, bytes: payload.count)
        }
        self.value = value
    }

    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(native: value)
        return bytes
    }
}
