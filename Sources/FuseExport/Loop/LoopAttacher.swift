// Attaches a loop device to a FUSE file, on a thread of its own. Attaching reads from the file (partitions), and its
// server may die meanwhile: then the attaching thread waits in the kernel for the next server, so it must not be the
// thread that starts servers.
import DiskTypes
import Glibc
import LinuxIO
import SystemPackage

/// Attaches a loop device to a FUSE file, on a thread of its own.
struct LoopAttacher: ThreadWork {
    let path: FilePath
    let readOnly: Bool
    let blockSize: Int
    let outcome: Mailbox<Result<LoopDevice, ImageError>>

    static func start(
        _ path: FilePath, readOnly: Bool, blockSize: Int
    ) throws(ImageError) -> Mailbox<Result<LoopDevice, ImageError>> {
        do throws(Errno) {
            let outcome: Mailbox<Result<LoopDevice, ImageError>> = try Mailbox()
            let work = LoopAttacher(path: path, readOnly: readOnly, blockSize: blockSize, outcome: outcome)
            _ = try WorkerThread.start("qblk-attach", work)
            return outcome
        } catch {
            throw ImageError(.system, "cannot start a thread: \(errorText(error.rawValue))")
        }
    }

    consuming func run() {
        do throws(ImageError) {
            outcome.post(.success(try attach()))
        } catch {
            outcome.post(.failure(error))
        }
    }

    private func attach() throws(ImageError) -> LoopDevice {
        let fd = path.open((readOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC)
        guard fd >= 0 else { throw ImageError(.system, "cannot open \(path): \(errorText(errno))") }
        let file = OwnedFD(taking: fd)
        // Until it is asked for its size, a fresh FUSE file counts as empty in the kernel; its loop driver has asked
        // since Linux 6.16.
        var status = stat()
        guard unsafe fstat(file.raw, &status) == 0 else {
            throw ImageError(.system, "cannot look at \(path): \(errorText(errno))")
        }
        // The block size is not left to the file system: partition tables count in blocks, so only the maker of the
        // disk knows it.
        return try LoopDevice.attach(
            fd: file.raw, readOnly: readOnly, directIO: true, partitionScan: true,
            blockSize: UInt32(truncatingIfNeeded: blockSize), name: path)
    }
}
