// Every message begins with the same 12 bytes, and they say how many more to read. A reader that believes a wrong one
// reads garbage for ever after, so it is judged before anything else is read.

/// The header of a message, of either side.
///
///     let header = try MessageHeader(decoding: bytes)           // the first 12 bytes of what came
///     let request = header.frontendRequest                      // nil: the code is unknown
///     let answer = header.reply(payloadBytes: 8).encoded
@frozen public struct MessageHeader: Equatable, Sendable, BitwiseCopyable {
    public static let version: UInt32 = 1

    /// Bits of `flags`.
    public enum Flag {
        public static let versionMask: UInt32 = 0x3
        public static let reply: UInt32 = 0x4
        public static let needReply: UInt32 = 0x8
    }

    /// Offsets.
    public enum Field {
        public static let request = 0
        public static let flags = 4
        public static let size = 8
    }

    /// The code as it came; it may be one that this side does not know.
    public let request: UInt32
    public let flags: UInt32
    public let payloadBytes: Int

    public init(_ request: FrontendRequest, payloadBytes: Int, needsReply: Bool = false) {
        self.init(raw: request.rawValue, Self.version | (needsReply ? Flag.needReply : 0), payloadBytes)
    }
    public init(_ request: BackendRequest, payloadBytes: Int, needsReply: Bool = false) {
        self.init(raw: request.rawValue, Self.version | (needsReply ? Flag.needReply : 0), payloadBytes)
    }
    private init(raw request: UInt32, _ flags: UInt32, _ payloadBytes: Int) {
        self.request = request
        self.flags = flags
        self.payloadBytes = payloadBytes
    }

    /// From exactly a header's bytes, or more.
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

    public var isReply: Bool { flags & Flag.reply != 0 }
    public var needsReply: Bool { flags & Flag.needReply != 0 }
    public var frontendRequest: FrontendRequest? { FrontendRequest(rawValue: request) }
    public var backendRequest: BackendRequest? { BackendRequest(rawValue: request) }

    /// The header of an answer to this message.
    public func reply(payloadBytes: Int) -> MessageHeader {
        MessageHeader(raw: request, Self.version | Flag.reply, payloadBytes)
    }

    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(VhostUserLimits.headerBytes)
        bytes.append(native: request)
        bytes.append(native: flags)
        bytes.append(native: UInt32(truncatingIfNeeded: payloadBytes))
        return bytes
    }
}
