// The image of a map can be renamed, which does no harm, or deleted, which takes what is written with the map. Only the
// processes and the devices that have the file open know which of the two it was.
import DiskTypes
import LinuxIO
import SystemPackage

extension MapRecord {
    /// The image has no name any more: its bytes go with the map. False also where that cannot be found out.
    public var isImageDeleted: Bool {
        guard isImageRenamed else { return false }
        return [supervisor, server].compactMap { $0 }.contains { $0.isAlive && hasOpenWithoutName($0.pid) }
            || mountPoint == nil && loops.contains(where: isOfDeletedImage)
    }

    private func hasOpenWithoutName(_ pid: Int32) -> Bool {
        let folder: FilePath = "/proc/\(pid)/fd"
        return Filesystem.listIfThere(folder).contains { number in
            let file = folder.appending(number)
            return Filesystem.identity(of: file) == imageIdentity && file.linkCount == 0
        }
    }

    /// The kernel says that the name was removed; whether a hard link is left it does not say. Not asked of loop devices on a
    /// FUSE file: the question would go to its server.
    private func isOfDeletedImage(_ number: Int32) -> Bool {
        guard ownsLoop(number), let file = LoopDevice.backingFile(number), file.name.hasSuffix(" (deleted)") else {
            return false
        }
        do throws(ImageError) {
            return try LoopDevice.open(number).status()?.identity == imageIdentity
        } catch { return false }
    }
}
