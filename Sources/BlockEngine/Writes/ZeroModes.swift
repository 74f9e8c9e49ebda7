// A file system may know how to punch holes and make zeros, and says so only by refusing. What it refused once it is not
// asked for again.
import DiskTypes
import Glibc
import LinuxIO

/// By which means ranges of the file of the data become zeros.
struct ZeroModes: BitwiseCopyable {
    private let isRaw: Bool
    private var canPunch = true
    private var canZero = true

    /// `isRaw`: the image has no mapping, so that a hole in its file loses no cluster that has storage.
    init(isRaw: Bool) { self.isRaw = isRaw }

    /// What comes after a mode that the file refused.
    enum Next {
        case nothing
        case mode(Int32)
        case writtenOut
    }

    /// fallocate's mode to begin with; 0: zeros are written out; nil: nothing is done. Clusters of QCOW2 keep their
    /// storage: a hole there would only be filled again.
    func first(isDiscard: Bool, discards: Bool, mayUnmap: Bool) -> Int32? {
        if isDiscard { return isRaw && canPunch && discards ? HostFile.Allocation.punchHole : nil }
        if mayUnmap, isRaw, canPunch { return HostFile.Allocation.punchHole }
        return canZero ? HostFile.Allocation.zeroRange : 0
    }

    /// Whether an errno of fallocate means that the file knows no such mode.
    static func isRefusal(_ error: Int32) -> Bool {
        error == EOPNOTSUPP || error == ENOSYS || error == ENODEV || error == EINVAL
    }

    /// The file refused a mode.
    mutating func refuse(_ mode: Int32, isDiscard: Bool) -> Next {
        let wasPunch = mode == HostFile.Allocation.punchHole
        if wasPunch { canPunch = false } else { canZero = false }
        if isDiscard { return .nothing }
        return wasPunch && canZero ? .mode(HostFile.Allocation.zeroRange) : .writtenOut
    }
}
