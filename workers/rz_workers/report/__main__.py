from rz_workers.report.main import main
from rz_workers.runtime import worker_process

if __name__ == "__main__":
    with worker_process():
        main()
