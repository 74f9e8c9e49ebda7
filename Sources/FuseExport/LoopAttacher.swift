// Why this file exists: attaching a loop device reads from the file (partitions), and the file is ours: should its server
// die in between, the attaching thread waits in the kernel for the next server. So it must not be the thread that starts
// servers.
import DiskTypes
import Glibc
import LinuxIO
import SystemPackage

/// Attaches a loop device to a FUSE file, on a thread of its own.
struct LoopAttacher: ThreadWork {
    let path: String
    let readOnly: Bool
    let outcome: Mailbox<Result<LoopDevice, ImageError>>

    static func start(
        _ path: String, readOnly: Bool
    ) throws(ImageError) -> Mailbox<Result<LoopDevice, ImageError>> {
        do throws(Errno) {
            let outcome: Mailbox<Result<LoopDevice, ImageError>> = try Mailbox()
            _ = try WorkerThread.start("qblk-attach", LoopAttacher(path: path, readOnly: readOnly, outcome: outcome))
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
        let fd = open(path, (readOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC)
        guard fd >= 0 else { throw ImageError(.system, "cannot open \(path): \(errorText(errno))") }
        let file = OwnedFD(taking: fd)
        // Until somebody asks, the kernel takes a fresh FUSE file for empty; its loop driver has asked since Linux 6.16.
        var status = stat()
        guard fstat(file.raw, &status) == 0 else {
            throw ImageError(.system, "cannot look at \(path): \(errorText(errno))")
        }
        // 512 always: partition tables count in blocks, and images are made for disks with blocks of 512.
        return try LoopDevice.attach(
            fd: file.raw, readOnly: readOnly, directIO: true, partitionScan: true, blockSize: 512, name: path)
    }
}
