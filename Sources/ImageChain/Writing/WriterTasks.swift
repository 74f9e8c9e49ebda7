// What only an image's helper thread may do, and another thread waits for: to use a journal, or to bring everything to the
// disk. The helper takes the tasks in the order in which they came.

import DiskTypes
import LinuxIO
import QCOW2
import Synchronization
import SystemPackage

/// One task, and where its outcome goes.
struct WriterTask {
    /// The journal to use from now on; nil: bring everything to the disk.
    let journal: MappingJournal?
    let outcome: Mailbox<Result<JournalReplay, ImageError>>
}

/// The tasks of one helper thread that it has not taken yet.
struct WriterTasks: ~Copyable, Sendable {
    private let list = Mutex<[WriterTask]>([])

    func add(_ task: WriterTask) { list.withLock { $0.append(task) } }

    /// All tasks so far, oldest first.
    func takeAll() -> [WriterTask] {
        list.withLock { tasks in
            defer { tasks = [] }
            return tasks
        }
    }
}
