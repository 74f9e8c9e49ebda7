// The 12 bytes that every message begins with; they say how many bytes follow. A wrong length would make a reader take
// the middle of one message for the start of the next, so the header is checked before anything else is read.

/// The header of a message, of either side (specification: "Header").
///
///     let header = try MessageHeader(decoding: bytes)           // the first 12 bytes of what came
///     let request = header.frontendRequest                      // nil: the code is unknown
///     let answer = header.reply(payloadBytes: 8).encoded
@frozen public struct MessageHeader: Equatable, Sendable, BitwiseCopyable {
    /// The only version of the protocol.
    public static let version: UInt32 = 1

    /// Bits of `flags`.
    public enum Flag {
        /// Bits 0 and 1: the version.
        public static let versionMask: UInt32 = 0x3
        /// Bit 2: the message is an answer.
        public static let reply: UInt32 = 0x4
        /// Bit 3: the sender asks for an answer (protocol feature REPLY_ACK).
        public static let needReply: UInt32 = 0x8
    }

    /// Offsets in the header, in bytes; each field is a u32.
    public enum Field {
        /// The request's code.
        public static let request = 0
        /// Version and flags.
        public static let flags = 4
        /// Bytes of the payload.
        public static let size = 8
    }

    /// The request's code as it came; it may be one that this side does not know.
    public let request: UInt32
    /// Version and `Flag` bits as they came; unknown bits are ignored.
    public let flags: UInt32
    /// Bytes that follow the header, at most `VhostUserLimits.maxPayloadBytes` in a decoded one.
    public let payloadBytes: Int

    /// The header of a front-end's message. `needsReply` sets bit 3, which is valid only when REPLY_ACK was agreed on.
    public init(_ request: FrontendRequest, payloadBytes: Int, needsReply: Bool = false) {
        self.init(raw: request.rawValue, Self.version | (needsReply ? Flag.needReply : 0), payloadBytes)
    }
    /// The header of a back-end's message. `needsReply` sets bit 3, which is valid only when REPLY_ACK was agreed on.
    public init(_ request: BackendRequest, payloadBytes: Int, needsReply: Bool = false) {
        self.init(raw: request.rawValue, Self.version | (needsReply ? Flag.needReply : 0), payloadBytes)
    }
    private init(raw request: UInt32, _ flags: UInt32, _ payloadBytes: Int) {
        self.request = request
        self.flags = flags
        self.payloadBytes = payloadBytes
    }

    /// Decodes the first 12 bytes. Throws `.headerCutOff` for fewer, `.wrongVersion`, and `.payloadTooLong` for more
    /// than `VhostUserLimits.maxPayloadBytes`.
    public init(decoding bytes: [UInt8]) throws(WireError) {
        guard let request = bytes.native(UInt32.self, at: Field.request),
            let flags = bytes.native(UInt32.self, at: Field.flags),
            let size = bytes.native(UInt32.self, at: Field.size)
        else { throw .headerCutOff(bytes: bytes.count) }
        let version = flags & Flag.versionMask
        guard version == Self.version else { throw .wrongVersion(version) }
        guard size <= UInt32(VhostUserLimits.maxPayloadBytes) else { throw .payloadTooLong(bytes: size) }
        self.init(raw: request, flags, Int(size))
    }

    /// The message is an answer (bit 2).
    public var isReply: Bool { flags & Flag.reply != 0 }
    /// The sender asks for an answer (bit 3).
    public var needsReply: Bool { flags & Flag.needReply != 0 }
    /// The request, if a front-end sent the message; nil for a code that the protocol does not have.
    public var frontendRequest: FrontendRequest? { FrontendRequest(rawValue: request) }
    /// The request, if a back-end sent the message; nil for a code that the protocol does not have.
    public var backendRequest: BackendRequest? { BackendRequest(rawValue: request) }

    /// The header of an answer to this message.
    public func reply(payloadBytes: Int) -> MessageHeader {
        MessageHeader(raw: request, Self.version | Flag.reply, payloadBytes)
    }

    /// The 12 bytes of the header.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(VhostUserLimits.headerBytes)
        bytes.append(native: request)
        bytes.append(native: flags)
        bytes.append(native: UInt32(truncatingIfNeeded: payloadBytes))
        return bytes
    }
}
