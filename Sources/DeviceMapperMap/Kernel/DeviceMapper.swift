// The only door to libdevmapper. The library keeps global state and is not thread-safe, so every call happens in one
// place, one after the other.

import DiskTypes
import CQblk
import Glibc
import Synchronization

/// Number of a block device.
public struct DeviceNumber: Hashable, Sendable, CustomStringConvertible {
    public var major: UInt32
    public var minor: UInt32

    public init(major: UInt32, minor: UInt32) {
        self.major = major
        self.minor = minor
    }
    /// `254:3`, as tables name devices: the kernel resolves a path anew for each target, and slowly.
    public var description: String { "\(major):\(minor)" }
}

/// What the kernel says about a device.
public struct DMDeviceInfo: Equatable, Sendable {
    public let name: String
    public let uuid: String
    public let number: DeviceNumber
    public let openCount: Int
    public let targets: Int
    public let readOnly: Bool
    public let suspended: Bool
    public let hasTable: Bool
    public let hasStagedTable: Bool
    public let deferredRemove: Bool
}

/// The kernel's device-mapper.
public final class DeviceMapper: Sendable {
    public static let shared = DeviceMapper()

    private let turn = Mutex<Void>(())

    private init() {
        DMLog.install()
        // Names and UUIDs are taken as they are; DMNaming lets none through that would need another form.
        _ = dm_set_name_mangling_mode(DM_STRING_MANGLING_NONE)
    }

    /// Runs `body` with the library to itself and says failures in the user's words.
    func alone<Result: Sendable>(
        _ what: String, _ body: () throws(DMFailure) -> Result
    ) throws(ImageError) -> Result {
        do {
            return try attempt(body)
        } catch {
            throw DeviceMapper.error(what, error)
        }
    }

    /// The same with the raw failure, for callers that expect some.
    func attempt<Result: Sendable>(_ body: () throws(DMFailure) -> Result) throws(DMFailure) -> Result {
        try turn.withLock { _ throws(DMFailure) -> Result in try body() }
    }

    static func error(_ what: String, _ failure: DMFailure) -> ImageError {
        let line = "\(what): \(failure.reason)"
        switch failure.errno {
        case EBUSY: return ImageError(.locked, line)
        case ENXIO where !failure.log.contains("/dev/mapper/control"): return ImageError(.notFound, line)
        case EACCES, EPERM: return ImageError(.system, line, advice: "device-mapper needs root")
        default: return ImageError(.system, line)
        }
    }
}
