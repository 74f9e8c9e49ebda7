// Why this file exists: `qblk doctor`.
import ArgumentParser
struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "doctor", abstract: "Not yet.")
}
