// Extensions of the protocol are agreed on bit by bit; neither side uses what the other lacks.

/// Bits of GET_PROTOCOL_FEATURES and SET_PROTOCOL_FEATURES.
@frozen public struct ProtocolFeatures: OptionSet, Sendable, BitwiseCopyable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    public static let multiQueue = ProtocolFeatures(rawValue: 1 << 0)
    public static let logSharedMemory = ProtocolFeatures(rawValue: 1 << 1)
    public static let rarp = ProtocolFeatures(rawValue: 1 << 2)
    public static let replyAck = ProtocolFeatures(rawValue: 1 << 3)
    public static let mtu = ProtocolFeatures(rawValue: 1 << 4)
    public static let backendRequests = ProtocolFeatures(rawValue: 1 << 5)
    public static let crossEndian = ProtocolFeatures(rawValue: 1 << 6)
    public static let cryptoSession = ProtocolFeatures(rawValue: 1 << 7)
    public static let pageFault = ProtocolFeatures(rawValue: 1 << 8)
    public static let config = ProtocolFeatures(rawValue: 1 << 9)
    public static let backendSendFD = ProtocolFeatures(rawValue: 1 << 10)
    public static let hostNotifier = ProtocolFeatures(rawValue: 1 << 11)
    public static let inflightSharedMemory = ProtocolFeatures(rawValue: 1 << 12)
    public static let resetDevice = ProtocolFeatures(rawValue: 1 << 13)
    public static let inbandNotifications = ProtocolFeatures(rawValue: 1 << 14)
    public static let configureMemorySlots = ProtocolFeatures(rawValue: 1 << 15)
    public static let status = ProtocolFeatures(rawValue: 1 << 16)
    public static let xenMmap = ProtocolFeatures(rawValue: 1 << 17)
    public static let sharedObject = ProtocolFeatures(rawValue: 1 << 18)
    public static let deviceState = ProtocolFeatures(rawValue: 1 << 19)
    public static let getVringBaseInflight = ProtocolFeatures(rawValue: 1 << 20)
    public static let guestPhysicalAddresses = ProtocolFeatures(rawValue: 1 << 21)
    public static let sharedMemoryMap = ProtocolFeatures(rawValue: 1 << 22)
}
